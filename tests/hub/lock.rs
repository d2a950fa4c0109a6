//! What the lock pins, and who wins when lock, hub and cache disagree.

use super::{DATASET, Ear, LARGE_FILE, World, bytes, server, wanted};
use harness::hub::{Fetched, Hub};
use std::fs;

/// Fetches and returns what was told, too.
fn fetch(world: &World, hub: &Hub) -> (Fetched, String) {
    let ear = Ear::default();
    (hub.fetch(&world.wanted(), &ear).unwrap(), ear.heard())
}

fn offline(world: &World) -> Hub {
    world.hub_with(|settings| settings.offline = true)
}

fn lock_text(world: &World) -> String {
    fs::read_to_string(world.lock()).unwrap()
}

fn change_lock(world: &World, from: &str, to: &str) {
    let text = lock_text(world);
    assert!(text.contains(from), "{from} is not in {text}");
    fs::write(world.lock(), text.replace(from, to)).unwrap();
}

/// The branch moves on: another large file.
fn move_branch(world: &World) -> (String, Vec<u8>) {
    let new = bytes(200_000, 5);
    let files: [(&str, &[u8]); 3] = [("README.md", b"card"), (LARGE_FILE, &new), ("data/new.json", b"[]")];
    (world.server.commit(DATASET, "main", &files), new)
}

#[test]
fn the_lock_is_for_people() {
    let world = World::new();
    world.fetch();
    let expected = format!(
        r#"# Written by `harness fetch`: the commit that each revision was resolved to, and what each file must hold.
# `harness fetch --update` resolves the revisions again.
version = 1

[[repo]]
kind = "dataset"
id = "owner/name"
revision = "main"
commit = "{}"
licence = "mit"
patterns = ["README.md", "data/*"]

[[repo.file]]
path = "README.md"
bytes = 4
sha256 = "{}"
git = "{}"

[[repo.file]]
path = "data/large 1.parquet"
bytes = 300000
sha256 = "{}"

[[repo.file]]
path = "data/small.json"
bytes = 2
sha256 = "{}"
git = "{}"
"#,
        world.commit,
        server::sha256(b"card"),
        server::git(b"card"),
        server::sha256(&world.large),
        server::sha256(b"{}"),
        server::git(b"{}"),
    );
    assert_eq!(lock_text(&world), expected);
}

#[test]
fn a_branch_that_moved_is_told_and_not_followed() {
    let world = World::new();
    world.fetch();
    let (head, _) = move_branch(&world);
    for _ in 0..2 {
        let (fetched, told) = fetch(&world, &world.hub());
        world.check_whole(&fetched);
        let words = [world.commit.as_str(), &head, "has moved", "harness fetch --update"];
        assert!(words.iter().all(|word| told.contains(word)), "{told}");
        fs::remove_dir_all(world.dir.path().join("hub")).unwrap();
    }
    let plan = world.hub().plan(&[world.wanted()]).unwrap();
    assert_eq!((plan.files[0].commit.as_str(), plan.notes.len()), (world.commit.as_str(), 1));
}

#[test]
fn other_files_come_from_the_pinned_commit_too() {
    let world = World::new();
    world.fetch();
    move_branch(&world);
    let fetched = world.hub().fetch(&wanted(&["other.bin"]), &Ear::default()).unwrap();
    assert_eq!((fetched.commit.as_str(), fetched.files.len()), (world.commit.as_str(), 1));
    assert!(lock_text(&world).contains("patterns = [\"README.md\", \"data/*\", \"other.bin\"]"));
    assert_eq!(fs::read_to_string(world.repo_dir().join("refs/main")).unwrap(), world.commit);
}

#[test]
fn update_takes_the_new_commit() {
    let world = World::new();
    world.fetch();
    let (head, new) = move_branch(&world);
    let (fetched, told) = fetch(&world, &world.hub_with(|settings| settings.update = true));
    assert_eq!((fetched.commit.as_str(), fetched.files.len(), told.as_str()), (head.as_str(), 3, ""));
    assert_eq!(fs::read(&fetched.files[1].1).unwrap(), new);
    assert_eq!(world.server.seen("README").len(), 1, "the same content was downloaded again");
    assert!(!lock_text(&world).contains(&world.commit) && lock_text(&world).contains("data/new.json"));
    assert_eq!(fs::read_to_string(world.repo_dir().join("refs/main")).unwrap(), head);
    assert_eq!(fetch(&world, &world.hub()).0, fetched);
}

#[test]
fn an_update_that_fails_leaves_the_lock() {
    let world = World::new();
    world.fetch();
    let before = lock_text(&world);
    move_branch(&world);
    world.server.fault("resolve", server::Fault::Status(404, String::new()));
    world.fails(&world.hub_with(|settings| settings.update = true));
    assert_eq!(lock_text(&world), before);
    world.check_whole(&world.fetch());
}

#[test]
fn a_content_that_is_not_the_pinned_one_is_an_error() {
    for pinned in [b"card".to_vec(), bytes(300_000, 1)] {
        let world = World::new();
        world.fetch();
        fs::remove_dir_all(world.dir.path().join("hub")).unwrap();
        change_lock(&world, &server::sha256(&pinned), &"ab".repeat(32));
        let error = world.fails(&world.hub());
        for word in ["the lock pins", &"ab".repeat(32), &server::sha256(&pinned)] {
            assert!(error.contains(word), "{word} is not in {error}");
        }
        world.check_nothing_half();
        let large_is_bad = pinned.len() > 4;
        let bad = world.repo_dir().join("snapshots").join(&world.commit);
        assert!(!bad.join(if large_is_bad { LARGE_FILE } else { "README.md" }).exists());
    }
}

#[test]
fn a_cached_content_that_is_not_the_pinned_one_is_an_error() {
    let world = World::new();
    world.fetch();
    change_lock(&world, &server::sha256(b"card"), &"ab".repeat(32));
    assert!(world.fails(&world.hub()).contains("the lock pins sha256:abab"));
    assert!(world.fails(&offline(&world)).contains("the lock pins sha256:abab"));
}

#[test]
fn a_hub_that_announces_another_content_for_the_pinned_commit_is_an_error() {
    let world = World::new();
    world.fetch();
    change_lock(&world, &server::sha256(&world.large), &"ab".repeat(32));
    let more = wanted(&["*"]);
    let error = format!("{:#}", world.hub().fetch(&more, &Ear::default()).unwrap_err());
    assert!(
        error.contains("the lock pins 300000 bytes of sha256:abab") && error.contains("announces"),
        "{error}"
    );
}

#[test]
fn a_pinned_commit_that_is_gone_is_an_error_with_a_way_out() {
    let world = World::new();
    world.fetch();
    change_lock(&world, &world.commit, &"1".repeat(40));
    change_lock(&world, "patterns = [\"README.md\", \"data/*\"]\n", "");
    let error = world.fails(&world.hub());
    assert!(
        error.contains("harness fetch --update") && error.contains("there is no revision `1111"),
        "{error}"
    );
}

#[test]
fn offline_asks_nobody() {
    let world = World::new();
    let fetched = world.fetch();
    let requests = world.server.seen("/").len();
    let (again, told) = fetch(&world, &offline(&world));
    assert_eq!((again, told.as_str()), (fetched, ""));
    let plan = offline(&world).plan(&[world.wanted()]).unwrap();
    assert_eq!((plan.needed_bytes, plan.licences[0].1.as_deref()), (0, Some("mit")));
    assert_eq!(world.server.seen("/").len(), requests);
}

#[test]
fn an_update_offline_is_refused() {
    let mut settings = World::new().settings();
    (settings.offline, settings.update) = (true, true);
    assert!(Hub::new(settings).unwrap_err().to_string().contains("HF_HUB_OFFLINE forbids"));
}

#[test]
fn offline_says_what_is_missing_and_how_to_get_it() {
    let world = World::new();
    let error = world.fails(&offline(&world));
    assert!(error.contains("the repository is missing") && error.contains("`harness fetch`"), "{error}");
    world.fetch();
    fs::remove_file(world.repo_dir().join("blobs").join(server::sha256(&world.large))).unwrap();
    let error = world.fails(&offline(&world));
    assert!(error.contains(LARGE_FILE) && error.contains("HF_HUB_OFFLINE"), "{error}");
    let error = format!("{:#}", world.hub().find(&world.wanted()).unwrap_err());
    assert!(error.contains("large 1.parquet is missing: run `harness fetch`"), "{error}");
    let error = format!("{:#}", offline(&world).fetch(&wanted(&["other.bin"]), &Ear::default()).unwrap_err());
    assert!(error.contains("no file matches `other.bin`"), "{error}");
    assert_eq!(world.server.seen("other.bin").len(), 0);
}

#[test]
fn a_cache_that_another_client_filled_is_hashed_and_pinned() {
    let world = World::new();
    world.fetch();
    let (before, requests) = (lock_text(&world), world.server.seen("resolve").len());
    fs::remove_file(world.lock()).unwrap();
    world.check_whole(&world.fetch());
    assert_eq!(lock_text(&world), before);

    fs::remove_file(world.lock()).unwrap();
    let (fetched, told) = fetch(&world, &offline(&world));
    assert_eq!(fetched.files.len(), 3);
    assert!(told.contains("not known"), "{told}");
    assert!(!lock_text(&world).contains("patterns"), "offline, the patterns are not settled");
    world.check_whole(&world.fetch());
    assert_eq!(lock_text(&world), before);
    assert_eq!(world.server.seen("resolve").len(), requests, "something was downloaded again");
}

#[test]
fn a_damaged_cache_is_repaired_online_and_refused_offline() {
    let world = World::new();
    world.fetch();
    fs::write(world.large_file(), bytes(300_000, 2)).unwrap();
    let error = world.fails(&offline(&world));
    assert!(error.contains(LARGE_FILE) && error.contains("is missing"), "{error}");
    let (fetched, told) = fetch(&world, &world.hub());
    world.check_whole(&fetched);
    assert!(told.contains("is damaged"), "{told}");
}

#[test]
fn what_is_pinned_and_cached_needs_no_hub() {
    let world = World::new();
    let fetched = world.fetch();
    let hub = world.hub_with(|settings| settings.endpoint = "http://127.0.0.1:1".to_owned());
    let (again, told) = fetch(&world, &hub);
    assert_eq!(again, fetched);
    assert!(told.contains("going by the lock alone"), "{told}");
    assert_eq!(fetch(&world, &hub).1, "", "the dead hub was asked twice");
}

#[test]
fn a_commit_needs_no_branch() {
    let world = World::new();
    let mut wanted = world.wanted();
    wanted.repo.revision = world.commit.clone();
    let fetched = world.hub().fetch(&wanted, &Ear::default()).unwrap();
    assert_eq!(fetched.commit, world.commit);
    assert!(!world.repo_dir().join("refs").exists());
    let requests = world.server.seen("/").len();
    assert_eq!(world.hub().fetch(&wanted, &Ear::default()).unwrap(), fetched);
    assert_eq!(world.server.seen("/").len(), requests, "a commit cannot move, so nobody is asked");
}
