//! Algorithms as data: presets, keys, round trips, refusals.

use super::variants;
use harness::algo::{Algorithm, Guide, PRESETS, PolicyVersion};
use serde_json::Value;

#[test]
fn every_preset_and_variant_is_valid_and_survives_json_and_toml() {
    for (name, algorithm) in variants() {
        algorithm.check().unwrap_or_else(|e| panic!("{name}: {e}"));
        let json = serde_json::to_string(&algorithm).expect("json");
        assert_eq!(serde_json::from_str::<Algorithm>(&json).expect("json"), algorithm, "{name}");
        let toml = toml::to_string(&algorithm).expect("toml");
        assert_eq!(toml::from_str::<Algorithm>(&toml).expect("toml"), algorithm, "{name}");
    }
}

#[test]
fn presets_are_known_by_name_and_differ() {
    let presets: Vec<Algorithm> = PRESETS.iter().filter_map(|name| Algorithm::preset(name)).collect();
    assert_eq!(presets.len(), PRESETS.len());
    for (i, a) in presets.iter().enumerate() {
        assert!(presets[i + 1..].iter().all(|b| !a.differences(b).is_empty()), "{}", PRESETS[i]);
    }
    assert_eq!(Algorithm::preset("ppo"), None);
}

#[test]
fn the_complete_example_has_no_empty_place() {
    fn full(path: &str, value: &Value) {
        assert!(!value.is_null(), "{path} is empty");
        for (key, inner) in value.as_object().into_iter().flatten() {
            full(&format!("{path}.{key}"), inner);
        }
    }
    full("algorithm", &serde_json::to_value(Algorithm::complete_example()).expect("json"));
}

#[test]
fn unknown_keys_are_refused_at_every_level() {
    fn objects(path: String, value: &Value, found: &mut Vec<String>) {
        if let Some(object) = value.as_object() {
            object.iter().for_each(|(key, inner)| objects(format!("{path}/{key}"), inner, found));
            found.push(path);
        }
    }
    for algorithm in [Algorithm::complete_example(), Algorithm::vppo()] {
        let good = serde_json::to_value(&algorithm).expect("json");
        let mut paths = Vec::new();
        objects(String::new(), &good, &mut paths);
        assert!(paths.len() > 9);
        for path in paths {
            let mut bad = good.clone();
            bad.pointer_mut(&path).expect("a path")["no_such_key"] = Value::from(1);
            assert!(serde_json::from_value::<Algorithm>(bad).is_err(), "{path} takes any key");
        }
    }
}

#[test]
fn values_without_meaning_are_refused_by_name() {
    let cases = [
        ("/advantage/epsilon", -1.0, "advantage.epsilon"),
        ("/clip/low", 1.5, "clip.low"),
        ("/clip/high", -0.1, "clip.high"),
        ("/clip/dual", 0.5, "clip.dual"),
        ("/group_filter/low", 0.99, "group_filter"),
        ("/overlong_penalty/factor", -1.0, "overlong_penalty.factor"),
        ("/kl/coef", -1.0, "kl.coef"),
        ("/perception/estimator/log_ratio_clamp", 800.0, "perception.estimator.log_ratio_clamp"),
        ("/perception/estimator/value_clamp", -1.0, "perception.estimator.value_clamp"),
        ("/perception/token_filter/fraction", 0.0, "perception.token_filter.fraction"),
        ("/perception/token_filter/fraction", 1.1, "perception.token_filter.fraction"),
        ("/perception/shaping/floor", -0.1, "perception.shaping.floor"),
        ("/perception/shaping/ceiling/value", 0.5, "perception.shaping.ceiling.value"),
    ];
    for (path, value, named) in cases {
        let mut json = serde_json::to_value(Algorithm::complete_example()).expect("json");
        *json.pointer_mut(path).expect("a path") = Value::from(value);
        let algorithm: Algorithm = serde_json::from_value(json).expect("readable");
        let message = algorithm.check().expect_err("refused").to_string();
        assert!(message.starts_with(named), "{path}: {message}");
    }
}

#[test]
fn an_algorithm_says_what_it_needs() {
    let needs = |name: &str| {
        let a = Algorithm::preset(name).expect("a preset");
        (a.needs_corruption(), a.needs_reference())
    };
    assert_eq!(needs("dapo"), (false, false));
    assert_eq!(needs("grpo_easyr1"), (false, true));
    for name in ["vppo", "vppo_paper", "reweight_only", "mask_only", "grpo_vppo"] {
        assert_eq!(needs(name), (true, false), "{name}");
    }
    let guided = |guide, entropy_of| {
        let mut a = Algorithm::mask_only();
        let filters = a.perception.iter_mut().flat_map(|p| &mut p.token_filter);
        filters.for_each(|f| (f.guide, f.entropy_of) = (guide, entropy_of));
        (a.needs_corruption(), a.needs_old_entropy(), a.needs_current_entropy())
    };
    assert_eq!(guided(Guide::Perception, PolicyVersion::Old), (true, false, false));
    assert_eq!(guided(Guide::Random, PolicyVersion::Old), (false, false, false));
    assert_eq!(guided(Guide::Entropy, PolicyVersion::Old), (false, true, false));
    assert_eq!(guided(Guide::Entropy, PolicyVersion::Current), (false, false, true));
}
