//! The committed code and descriptors are what the .proto files say. `UPDATE_GENERATED=1` rewrites them.

use prost::Message;

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
    std::fs::write(out.path().join("fanfare.v1.bin"), descriptors.encode_to_vec()).unwrap();
    tonic_prost_build::configure()
        .bytes(".")
        .out_dir(out.path())
        .compile_fds(descriptors)
        .unwrap();

    for name in ["fanfare.v1.rs", "fanfare.v1.bin"] {
        let fresh = std::fs::read(out.path().join(name)).unwrap();
        let committed = root.join("gen").join(name);
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(&committed, &fresh).unwrap();
        }
        assert!(
            std::fs::read(committed).unwrap() == fresh,
            "proto/gen/{name} is stale: run UPDATE_GENERATED=1 cargo test -p proto"
        );
    }
}
