//! One test for every fault that a fetch meets. After each: whole files, or an error and nothing half-written.

use super::server::{Fault, Server};
use super::{DATASET, Ear, LARGE_FILE, World, bytes, token, wanted};
use harness::hub::Hub;
use harness::progress::Interrupted;
use std::fs;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

fn status(code: u16, headers: &str) -> Fault {
    Fault::Status(code, headers.to_owned())
}

/// Where the faults of the large file's content happen.
fn cdn(world: &World) -> String {
    Server::cdn_part(&world.large)
}

/// The `Range` of every request for the large file's content.
fn ranges(world: &World) -> Vec<Option<String>> {
    world.large_requests().into_iter().map(|seen| seen.range).collect()
}

fn from(byte: u64) -> Option<String> {
    Some(format!("bytes={byte}-"))
}

/// The fetch fails with all of these words, and leaves nothing of the file.
fn check_refused(world: &World, hub: &Hub, words: &[&str]) {
    let error = world.fails(hub);
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
    assert!(!error.contains("secret") && !error.contains("hf_"), "{error}");
    assert!(!world.large_file().exists());
    world.check_nothing_half();
}

#[test]
fn redirects_are_followed_and_loops_are_not() {
    let world = World::new();
    let here = format!("/{DATASET}/resolve/{}/README.md", world.commit);
    world.server.fault("README", status(307, &format!("Location: {here}\r\n")));
    world.server.fault("README", status(302, &format!("Location: {}{here}\r\n", world.server.endpoint)));
    world.check_whole(&world.fetch());

    let world = World::new();
    for _ in 0..20 {
        world.server.fault("README", status(302, &format!("Location: {here}\r\n")));
    }
    assert!(world.fails(&world.hub()).contains("more than 10 redirects"));
    let world = World::new();
    world.server.fault("README", status(302, ""));
    assert!(world.fails(&world.hub()).contains("a redirect leads nowhere"));
}

#[test]
fn a_404_says_what_is_missing() {
    let world = World::new();
    world.server.fault("resolve", status(404, "X-Error-Code: EntryNotFound\r\n"));
    let hub = world.hub_with(|settings| settings.workers = 1);
    check_refused(&world, &hub, &["dataset owner/name", "README.md", "HTTP 404", "not in this revision"]);
    assert_eq!(world.server.seen("README").len(), 1, "a 404 was tried again");

    let world = World::new();
    world.server.fault("revision", status(404, "X-Error-Code: RevisionNotFound\r\n"));
    check_refused(
        &world,
        &world.hub(),
        &["HTTP 404", "no revision `main`", "/api/datasets/owner/name/revision/main"],
    );
    world.server.fault("revision", status(404, "X-Error-Code: RepoNotFound\r\n"));
    check_refused(&world, &world.hub(), &["HTTP 404", "check name and revision"]);
}

#[test]
fn a_gated_repository_says_how_to_get_in() {
    let world = World::new();
    world.server.gate(DATASET);
    let page = format!("accept the licence at {}/datasets/owner/name", world.server.endpoint);
    check_refused(&world, &world.hub(), &["HTTP 401", &page, "HF_TOKEN"]);
    let stranger = world.hub_with(|settings| settings.token = token("hf_stranger"));
    check_refused(&world, &stranger, &["HTTP 403", &page, "no access yet"]);
    let member = world.hub_with(|settings| settings.token = token("hf_member"));
    world.check_whole(&member.fetch(&world.wanted(), &Ear::default()).unwrap());
}

#[test]
fn a_private_or_misspelt_repository_says_so() {
    let world = World::new();
    world.server.fault("revision", status(401, "X-Error-Code: RepoNotFound\r\n"));
    check_refused(&world, &world.hub(), &["HTTP 401", "no public repository owner/name", "HF_TOKEN"]);
    world.server.fault("revision", status(401, ""));
    let hub = world.hub_with(|settings| settings.token = token("hf_old"));
    check_refused(&world, &hub, &["HTTP 401", "the token was refused"]);
}

#[test]
fn a_429_is_waited_out() {
    let world = World::new();
    world.server.fault("revision", status(429, "RateLimit: \"api\";r=0;t=0\r\n"));
    world.server.fault(&cdn(&world), status(429, "Retry-After: 1\r\n"));
    let (start, ear) = (Instant::now(), Ear::default());
    world.check_whole(&world.hub().fetch(&world.wanted(), &ear).unwrap());
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(ear.heard().contains("HTTP 429 Too Many Requests; try 1 of 5 in 1.0 s"), "{}", ear.heard());
}

#[test]
fn failures_of_the_server_are_tried_again() {
    let world = World::new();
    world.server.fault("revision", Fault::Reset);
    world.server.fault("revision", Fault::Truncated(20));
    for fault in [status(500, ""), status(503, ""), Fault::Reset, status(504, ""), status(408, "")] {
        world.server.fault(&cdn(&world), fault);
    }
    world.check_whole(&world.fetch());
    assert_eq!(world.large_requests().len(), 6);
}

#[test]
fn tries_are_bounded() {
    let world = World::new();
    for _ in 0..20 {
        world.server.fault(&cdn(&world), status(503, ""));
    }
    check_refused(&world, &world.hub(), &[LARGE_FILE, "HTTP 503", "given up after 6 tries"]);
    assert_eq!(world.large_requests().len(), 6);
}

#[test]
fn a_truncated_body_is_completed_by_range() {
    let world = World::new();
    world.server.fault(&cdn(&world), Fault::Truncated(100_000));
    world.server.fault(&cdn(&world), Fault::Truncated(50_000));
    world.check_whole(&world.fetch());
    assert_eq!(ranges(&world), [None, from(100_000), from(150_000)]);
}

#[test]
fn progress_renews_the_tries() {
    let world = World::new();
    for _ in 0..12 {
        world.server.fault(&cdn(&world), Fault::Truncated(20_000));
    }
    let hub = world.hub_with(|settings| settings.retries = 1);
    world.check_whole(&hub.fetch(&world.wanted(), &Ear::default()).unwrap());
    assert_eq!(ranges(&world).last().unwrap(), &from(240_000));
}

#[test]
fn a_server_without_ranges_starts_over_and_is_given_up_in_the_end() {
    let world = World::new();
    world.server.fault(&cdn(&world), Fault::Truncated(100_000));
    world.server.fault(&cdn(&world), Fault::RangeIgnored);
    world.check_whole(&world.fetch());
    assert_eq!(ranges(&world), [None, from(100_000)]);

    let world = World::new();
    let short = format!("Location: {}/short\r\n", world.server.endpoint);
    for _ in 0..20 {
        world.server.fault("large%201", status(302, &short));
        world.server.fault("/short", status(200, ""));
    }
    check_refused(&world, &world.hub(), &["broken off at 2 of 300000 bytes", "given up after 6 tries"]);
}

#[test]
fn a_416_starts_over() {
    let world = World::new();
    world.server.fault(&cdn(&world), Fault::Truncated(100_000));
    world.server.fault(&cdn(&world), status(416, ""));
    world.check_whole(&world.fetch());
    assert_eq!(ranges(&world), [None, from(100_000), None]);
}

#[test]
fn silence_is_given_up_and_the_rest_fetched() {
    let world = World::new();
    world.server.fault(&cdn(&world), Fault::Stalled(100_000));
    let hub = world.hub_with(|settings| settings.timeout = Duration::from_millis(300));
    world.check_whole(&hub.fetch(&world.wanted(), &Ear::default()).unwrap());
    assert_eq!(ranges(&world), [None, from(100_000)]);
}

#[test]
fn a_wrong_checksum_is_fetched_again_once() {
    let world = World::new();
    let ear = Ear::default();
    world.server.fault(&cdn(&world), Fault::Flipped);
    world.check_whole(&world.hub().fetch(&world.wanted(), &ear).unwrap());
    assert!(ear.heard().contains("wrong checksum"));
    assert_eq!(ranges(&world), [None, None]);

    let world = World::new();
    world.server.fault("README", Fault::Flipped);
    world.server.fault("README", Fault::Flipped);
    let error = world.fails(&world.hub());
    assert!(error.contains("README.md") && error.contains("the hub announces 4 bytes of git:"), "{error}");
    assert!(!world.repo_dir().join("snapshots").join(&world.commit).join("README.md").exists());
    world.check_nothing_half();
}

#[test]
fn a_wrong_checksum_for_good_leaves_nothing() {
    let world = World::new();
    world.server.fault(&cdn(&world), Fault::Flipped);
    world.server.fault(&cdn(&world), Fault::Flipped);
    check_refused(&world, &world.hub(), &["wrong content", LARGE_FILE, "300000 bytes of sha256:"]);
    assert!(!world.part().exists());
    world.check_whole(&world.fetch());
}

#[test]
fn half_files_are_gone_on_from_unless_they_are_of_something_else() {
    let halves = [
        (world_half(100_000), vec![from(100_000)]),
        (bytes(100_000, 77), vec![from(100_000), None]),
        (world_half(300_000), vec![]),
        (bytes(300_000, 77), vec![None]),
        (bytes(400_000, 1), vec![None]),
    ];
    for (half, expected) in halves {
        let world = World::new();
        fs::create_dir_all(world.part().parent().unwrap()).unwrap();
        fs::write(world.part(), &half).unwrap();
        world.check_whole(&world.fetch());
        assert_eq!(ranges(&world), expected, "{} bytes", half.len());
    }
}

/// The first `n` bytes of the large file.
fn world_half(n: usize) -> Vec<u8> {
    bytes(300_000, 1)[..n].to_vec()
}

#[test]
fn ctrl_c_stops_within_a_second_and_leaves_a_half_file() {
    let world = World::new();
    world.server.fault(&cdn(&world), Fault::Stalled(100_000));
    let ear = Ear::default();
    let elapsed = thread::scope(|scope| {
        let fetch = scope.spawn(|| world.hub().fetch(&world.wanted(), &ear));
        while fs::metadata(world.part()).map_or(0, |part| part.len()) < 100_000 {
            thread::sleep(Duration::from_millis(5));
        }
        ear.stop.store(true, Ordering::SeqCst);
        let asked = Instant::now();
        let error = fetch.join().unwrap().unwrap_err();
        assert!(error.downcast_ref::<Interrupted>().is_some(), "{error:#}");
        asked.elapsed()
    });
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    assert!(!world.large_file().exists());
    world.check_nothing_half();
    world.server.release();
    world.check_whole(&world.fetch());
}

#[test]
fn ctrl_c_stops_a_long_wait() {
    let world = World::new();
    world.server.fault("revision", status(429, "Retry-After: 300\r\n"));
    let ear = Ear::default();
    thread::scope(|scope| {
        let fetch = scope.spawn(|| world.hub().fetch(&world.wanted(), &ear));
        while ear.heard().is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        ear.stop.store(true, Ordering::SeqCst);
        assert!(fetch.join().unwrap().unwrap_err().downcast_ref::<Interrupted>().is_some());
    });
}

#[test]
fn a_hub_that_cannot_be_reached_or_is_none_is_named() {
    let world = World::new();
    let nobody = world.hub_with(|settings| settings.endpoint = "http://127.0.0.1:1".to_owned());
    check_refused(&world, &nobody, &["cannot reach 127.0.0.1", "HTTPS_PROXY", "HF_HUB_OFFLINE=1"]);
    world.server.fault("revision", status(200, "Content-Type: text/html\r\n"));
    check_refused(&world, &world.hub(), &["is no listing of the hub", "check HF_ENDPOINT"]);
    let mut settings = world.settings();
    settings.endpoint = "huggingface.co".to_owned();
    assert!(format!("{:#}", Hub::new(settings).unwrap_err()).contains("HF_ENDPOINT"));
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let world = World::new();
    fs::write(world.dir.path().join("hub"), "a file where the folder should be").unwrap();
    let error = world.fails(&world.hub());
    assert!(error.contains("cannot write") && error.contains("HF_HOME"), "{error}");
}

#[test]
fn the_rest_of_a_failed_fetch_is_not_fetched_again() {
    let world = World::new();
    world.server.fault(&cdn(&world), status(404, ""));
    let hub = world.hub_with(|settings| settings.workers = 1);
    world.fails(&hub);
    world.check_whole(&world.fetch());
    assert_eq!(world.server.seen("README").len(), 1);
    assert!(world.hub().find(&wanted(&["other.bin"])).is_err());
}
