//! What a fetch does when nothing goes wrong.

use super::{Ear, LARGE_FILE, World, bytes, server, token, wanted};
use harness::hub::{Condition, Repo, Wanted};
use std::fs;
use std::path::PathBuf;

#[test]
fn files_are_fetched_once_into_the_layout_of_the_hub() {
    let world = World::new();
    let ear = Ear::default();
    let fetched = world.hub().fetch(&world.wanted(), &ear).unwrap();
    world.check_whole(&fetched);
    assert_eq!(fetched.licence.as_deref(), Some("mit"));
    assert_eq!(*ear.stages.lock().unwrap(), [("fetch owner/name (MB)".to_owned(), 1, 1)]);
    let link = |path: &str| {
        fs::read_link(world.repo_dir().join("snapshots").join(&world.commit).join(path)).unwrap()
    };
    assert_eq!(link("README.md"), PathBuf::from(format!("../../blobs/{}", server::git(b"card"))));
    assert_eq!(link(LARGE_FILE), PathBuf::from(format!("../../../blobs/{}", server::sha256(&world.large))));
    assert_eq!(fs::read_to_string(world.repo_dir().join("refs/main")).unwrap(), world.commit);
    assert!(world.server.seen("other.bin").is_empty());

    let requests = world.server.seen("/resolve/").len();
    assert_eq!(world.fetch(), fetched);
    assert_eq!(world.server.seen("/resolve/").len(), requests, "the second fetch downloaded again");
}

#[test]
fn a_plan_tells_sizes_and_writes_nothing() {
    let world = World::new();
    let plan = world.hub().plan(&[world.wanted(), wanted(&["data/*"])]).unwrap();
    let sizes: Vec<(&str, u64, bool)> =
        plan.files.iter().map(|file| (file.path.as_str(), file.bytes, file.cached)).collect();
    let data = [(LARGE_FILE, 300_000, false), ("data/small.json", 2, false)];
    assert_eq!(sizes, [&[("README.md", 4, false)], &data[..], &data[..]].concat());
    assert_eq!(plan.needed_bytes, 300_006, "what is wanted twice is downloaded once");
    assert!(plan.free_bytes > 0);
    assert_eq!(plan.licences[0], (Repo::dataset("owner/name", "main"), Some("mit".to_owned())));
    assert_eq!(plan.files[1].checksum, format!("sha256:{}", server::sha256(&world.large)));
    assert_eq!(plan.files[0].checksum, format!("git:{}", server::git(b"card")));
    assert_eq!(plan.files[0].commit, world.commit);
    assert_eq!(fs::read_dir(world.dir.path()).unwrap().count(), 0, "a plan wrote something");

    world.fetch();
    fs::remove_file(world.repo_dir().join("blobs").join(server::sha256(&world.large))).unwrap();
    fs::write(world.part(), &world.large[..1000]).unwrap();
    let plan = world.hub().plan(&[world.wanted()]).unwrap();
    assert_eq!(plan.needed_bytes, 299_000);
    assert_eq!((plan.files[0].cached, plan.files[1].cached, plan.files[1].part_bytes), (true, false, 1000));
}

#[test]
fn the_licence_of_the_caller_is_the_one_that_counts() {
    let world = World::new();
    let wanted = Wanted { licence: Some("MIT, by its LICENSE file".to_owned()), ..world.wanted() };
    let plan = world.hub().plan(&[wanted]).unwrap();
    assert_eq!(plan.licences[0].1.as_deref(), Some("MIT, by its LICENSE file"));
}

#[test]
fn models_and_branches_with_slashes_have_their_own_addresses() {
    let world = World::new();
    let commit = world.server.commit("owner/model", "refs/pr/1", &[("config.json", b"{}")]);
    let files = vec!["*".to_owned()];
    let wanted = Wanted { repo: Repo::model("owner/model", "refs/pr/1"), files, licence: None };
    let fetched = world.hub().fetch(&wanted, &Ear::default()).unwrap();
    assert_eq!(fetched.commit, commit);
    let dir = world.dir.path().join("hub/models--owner--model");
    assert_eq!(fetched.files[0].1, dir.join("snapshots").join(&commit).join("config.json"));
    assert_eq!(fs::read_to_string(dir.join("refs/refs/pr/1")).unwrap(), commit);
}

#[test]
fn the_token_stays_with_the_endpoint() {
    let world = World::new();
    world.server.gate(super::DATASET);
    let hub = world.hub_with(|settings| settings.token = token("hf_member"));
    world.check_whole(&hub.fetch(&world.wanted(), &Ear::default()).unwrap());
    let (cdn, home): (Vec<_>, Vec<_>) = world.server.seen("/").into_iter().partition(|seen| seen.cdn);
    assert!(!cdn.is_empty() && cdn.iter().all(|seen| seen.authorization.is_none()), "{cdn:?}");
    assert!(home.iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hf_member")), "{home:?}");
}

#[test]
fn one_content_under_two_names_is_downloaded_once() {
    let world = World::new();
    let twin = bytes(5000, 9);
    world.server.commit(super::DATASET, "main", &[("a.bin", &twin), ("b.bin", &twin)]);
    let fetched = world.hub().fetch(&wanted(&["*"]), &Ear::default()).unwrap();
    assert!(fetched.files.iter().all(|(_, file)| fs::read(file).unwrap() == twin));
    assert_eq!(world.server.seen(&server::Server::cdn_part(&twin)).len(), 1);
}

#[test]
fn many_files_come_several_at_a_time() {
    let world = World::new();
    let names: Vec<String> = (0..8).map(|n| format!("{n}.bin")).collect();
    let bodies: Vec<Vec<u8>> = (0..8).map(|n| bytes(2000, n)).collect();
    let files: Vec<(&str, &[u8])> =
        names.iter().zip(&bodies).map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    world.server.commit(super::DATASET, "main", &files);
    for body in &bodies {
        world.server.fault(&server::Server::cdn_part(body), server::Fault::Slow(200));
    }
    let start = std::time::Instant::now();
    let hub = world.hub_with(|settings| settings.workers = 8);
    assert_eq!(hub.fetch(&wanted(&["*.bin"]), &Ear::default()).unwrap().files.len(), 8);
    let one_by_one = std::time::Duration::from_millis(8 * 200);
    assert!(start.elapsed() < one_by_one, "{:?}", start.elapsed());
}

#[test]
fn verify_tells_good_from_missing_and_damaged() {
    let world = World::new();
    world.fetch();
    let conditions = || -> Vec<Condition> {
        let checked = world.hub().verify(&Ear::default()).unwrap();
        checked.into_iter().map(|checked| checked.condition).collect()
    };
    assert_eq!(conditions(), [Condition::Good; 3]);
    let mut damaged = world.large.clone();
    damaged[7] ^= 1;
    fs::write(world.large_file(), damaged).unwrap();
    fs::remove_file(world.repo_dir().join("blobs").join(server::git(b"card"))).unwrap();
    assert_eq!(conditions(), [Condition::Missing, Condition::Damaged, Condition::Good]);

    let ear = Ear::default();
    world.check_whole(&world.hub().fetch(&world.wanted(), &ear).unwrap());
    assert!(ear.heard().contains("is damaged"), "{}", ear.heard());
}

#[test]
fn what_does_not_fit_on_the_disk_is_not_begun() {
    let world = World::new();
    world.server.pretend_size(LARGE_FILE, 1 << 60);
    let error = world.fails(&world.hub());
    assert!(error.contains("1152921504606846982 bytes are missing") && error.contains("HF_HOME"), "{error}");
    assert!(world.server.seen("/resolve/").is_empty());
    assert!(!world.repo_dir().exists());
}

#[test]
fn a_pattern_without_files_and_a_hostile_name_are_refused() {
    let world = World::new();
    let fails = |wanted: &Wanted| format!("{:#}", world.hub().fetch(wanted, &Ear::default()).unwrap_err());
    let error = fails(&wanted(&["data/*", "images/*"]));
    assert!(error.contains("no file matches `images/*`") && error.contains("README.md"), "{error}");
    assert!(fails(&wanted(&[])).contains("no files are asked for"));
    let elsewhere = Wanted { repo: Repo::model("../..", "main"), ..world.wanted() };
    assert!(fails(&elsewhere).contains("is no repository"));
    assert!(!world.repo_dir().exists());
}
