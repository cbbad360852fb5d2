//! Replays the corpora of the fuzz targets, so that what fuzzing once found stays found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../fuzz/checks/mod.rs"]
mod checks;

use std::fs;
use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut seen = 0;
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let data = fs::read(&path).unwrap();
        if std::panic::catch_unwind(|| check(&data)).is_err() {
            panic!("{} breaks {target}", path.display());
        }
        seen += 1;
    }
    assert!(seen > 0, "{} is empty", directory.display());
}

#[test]
fn ws_decode() {
    replay("ws_decode", checks::ws_decode);
}

#[test]
fn engine_payload() {
    replay("engine_payload", checks::engine_payload);
}

#[test]
fn sio_packet() {
    replay("sio_packet", checks::sio_packet);
}

#[test]
fn client_session() {
    replay("client_session", checks::client_session);
}
