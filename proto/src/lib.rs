//! Protobuf messages that cross processes. The code under `gen/` is generated from `fanfare/v1/*.proto`
//! and committed, so that nobody needs protoc; a test regenerates it and compares.

/// Package `fanfare.v1`.
#[allow(
    missing_docs,
    clippy::doc_markdown,
    reason = "generated; the .proto files carry the documentation"
)]
pub mod v1 {
    include!("../gen/fanfare.v1.rs");
}
