//! Several fetches at once, and fetches that are killed. The other process is this test binary, told to run
//! [`child`] alone.

use super::server::{Fault, Server};
use super::{Ear, World, wanted};
use harness::hub::{Hub, Settings};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

const CHILD: &str = "HARNESS_TEST_HUB_CHILD";

/// Not a test of its own: what [`spawn`] runs in another process.
#[test]
#[ignore = "run by other tests in a process of its own"]
fn child() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let (endpoint, dir) = arguments.split_once(' ').unwrap();
    let mut settings = Settings::new(format!("{dir}/hub"), format!("{dir}/hub.lock"));
    settings.endpoint = endpoint.to_owned();
    settings.timeout = Duration::from_secs(60);
    Hub::new(settings).unwrap().fetch(&wanted(&["README.md", "data/*"]), &Ear::default()).unwrap();
}

fn spawn(world: &World) -> Child {
    let arguments = format!("{} {}", world.server.endpoint, world.dir.path().display());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "hub::processes::child", "--ignored"]).env(CHILD, arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_killed_fetch_leaves_nothing_half_and_is_gone_on_with() {
    let world = World::new();
    world.server.fault(&Server::cdn_part(&world.large), Fault::Stalled(131_072));
    let mut process = spawn(&world);
    while fs::metadata(world.part()).map_or(0, |part| part.len()) < 131_072 {
        assert!(process.try_wait().unwrap().is_none(), "the fetch ended too early");
        thread::sleep(Duration::from_millis(5));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(!world.large_file().exists());
    world.check_nothing_half();
    assert!(fs::read_to_string(world.lock()).unwrap().contains(&world.commit), "the commit is pinned first");

    // Even if the branch moves between the two, the second goes on with the first one's commit.
    world.server.commit(super::DATASET, "main", &[("README.md", b"new")]);
    world.check_whole(&world.fetch());
    let ranges: Vec<_> = world.large_requests().into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges, [None, Some("bytes=131072-".to_owned())]);
}

#[test]
fn two_processes_share_the_work() {
    let world = World::new();
    world.server.fault(&Server::cdn_part(&world.large), Fault::Slow(400));
    let mut processes = [spawn(&world), spawn(&world)];
    assert!(processes.iter_mut().all(|process| process.wait().unwrap().success()));
    world.check_whole(&world.fetch());
    assert_eq!(world.large_requests().len(), 1);
    assert_eq!(world.server.seen("README").len(), 1);
}

#[test]
fn two_threads_share_the_work_and_the_waiting_one_says_so() {
    let world = World::new();
    world.server.fault(&Server::cdn_part(&world.large), Fault::Slow(400));
    let told = thread::scope(|scope| {
        let fetch = || {
            let ear = Ear::default();
            world.check_whole(&world.hub().fetch(&world.wanted(), &ear).unwrap());
            ear.heard()
        };
        let (one, other) = (scope.spawn(fetch), scope.spawn(fetch));
        one.join().unwrap() + &other.join().unwrap()
    });
    assert!(told.contains("waiting for another process"), "{told}");
    assert_eq!(world.large_requests().len(), 1);
}

#[test]
fn pins_of_fetches_at_once_are_all_kept() {
    let world = World::new();
    let names: Vec<String> = (0..6).map(|n| format!("owner/model-{n}")).collect();
    for name in &names {
        world.server.commit(name, "main", &[("config.json", name.as_bytes())]);
    }
    thread::scope(|scope| {
        for name in &names {
            let mut wanted = wanted(&["*"]);
            wanted.repo = harness::hub::Repo::model(name, "main");
            let world = &world;
            scope.spawn(move || world.hub().fetch(&wanted, &Ear::default()).unwrap());
        }
    });
    let lock = fs::read_to_string(world.lock()).unwrap();
    assert!(names.iter().all(|name| lock.contains(name)), "{lock}");
    assert_eq!(lock.matches("[[repo.file]]").count(), 6);
}

/// Python's client finds what we fetched, and we find what it fetched. Needs a Python with `huggingface_hub`, named
/// by `HARNESS_PYTHON`.
#[test]
#[ignore = "needs huggingface_hub: HARNESS_PYTHON=.../python cargo test python -- --ignored"]
fn python_and_we_share_the_cache() {
    let python = std::env::var("HARNESS_PYTHON").expect("set HARNESS_PYTHON");
    let run = |world: &World, offline: &str, script: &str| {
        let output = Command::new(&python)
            .args(["-c", script])
            .env("HF_HOME", world.dir.path())
            .env("HF_ENDPOINT", &world.server.endpoint)
            .env("HF_HUB_OFFLINE", offline)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let ours = World::new();
    let fetched = ours.fetch();
    let requests = ours.server.seen("/").len();
    let found = run(
        &ours,
        "1",
        "import huggingface_hub as h
print(h.hf_hub_download('owner/name', 'data/large 1.parquet', repo_type='dataset'))
print(h.snapshot_download('owner/name', repo_type='dataset', local_files_only=True))
info = h.scan_cache_dir()
print(len(info.warnings), [(r.repo_id, r.nb_files, sorted(v.refs)) for r in info.repos for v in r.revisions])",
    );
    let snapshot = fetched.files[0].1.parent().unwrap();
    let expected = format!(
        "{}\n{}\n0 [('owner/name', 3, ['main'])]\n",
        fetched.files[1].1.display(),
        snapshot.display()
    );
    assert_eq!(found, expected);
    assert_eq!(ours.server.seen("/").len(), requests, "Python asked the hub");

    let theirs = World::new();
    run(
        &theirs,
        "0",
        "import huggingface_hub as h
h.snapshot_download('owner/name', repo_type='dataset', allow_patterns=['README.md', 'data/*'])",
    );
    let requests = theirs.server.seen("resolve").len();
    assert!(requests > 0);
    theirs.check_whole(&theirs.fetch());
    assert_eq!(theirs.server.seen("resolve").len(), requests, "we downloaded again");
}
