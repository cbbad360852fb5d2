//! Protobuf messages that cross processes. The code under `gen/` is generated from `fanfare/v1/*.proto`
//! and committed, so that nobody needs protoc; a test regenerates it and compares.

/// Package `fanfare.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::doc_markdown,
    reason = "generated; the .proto files carry the documentation"
)]
pub mod v1 {
    include!("../gen/fanfare.v1.rs");
}

/// The descriptors of package `fanfare.v1`, an encoded `FileDescriptorSet`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("../gen/fanfare.v1.bin");
