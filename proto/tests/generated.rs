//! The committed code is what the .proto files say. `UPDATE_GENERATED=1` rewrites it.

#[test]
fn generated_code_is_current() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(root.join("fanfare/v1"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "proto"))
        .collect();
    files.sort();
    let descriptors = protox::compile(&files, [root]).unwrap();
    let out = tempfile::tempdir().unwrap();
    prost_build::Config::new()
        .bytes(["."])
        .out_dir(out.path())
        .compile_fds(descriptors)
        .unwrap();

    let name = "fanfare.v1.rs";
    let fresh = std::fs::read_to_string(out.path().join(name)).unwrap();
    let committed = root.join("gen").join(name);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(&committed, &fresh).unwrap();
    }
    let committed = std::fs::read_to_string(committed).unwrap();
    assert!(
        committed == fresh,
        "proto/gen is stale: run UPDATE_GENERATED=1 cargo test -p proto"
    );
}
