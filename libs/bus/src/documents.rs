//! Small documents that must survive: room membership, read marks, notification state, sessions
//! left by a drain. Buckets of keys; each key has one value and a revision.

use async_trait::async_trait;
use bytes::Bytes;

pub mod memory;
pub mod nats;

/// Port of the key-value buckets.
///
/// A bucket's name is `[A-Za-z0-9_-]+`. A key is tokens of `[A-Za-z0-9_=-]+` joined by `.`; callers
/// encode what came from outside.
#[async_trait]
pub trait Documents: Send + Sync + 'static {
    /// The newest value of a key.
    ///
    /// # Errors
    /// [`DocumentsError::Unavailable`].
    async fn get(&self, bucket: &str, key: &str) -> Result<Option<Document>, DocumentsError>;

    /// Writes, if the key's revision is still `expected` (`None`: there must be no value). Returns
    /// the new revision.
    ///
    /// # Errors
    /// [`DocumentsError::Conflict`] when somebody else wrote first: read again and decide anew.
    async fn put(
        &self,
        bucket: &str,
        key: &str,
        value: Bytes,
        expected: Option<u64>,
    ) -> Result<u64, DocumentsError>;

    /// Removes a key; one that is not there is no error.
    ///
    /// # Errors
    /// [`DocumentsError::Unavailable`].
    async fn delete(&self, bucket: &str, key: &str) -> Result<(), DocumentsError>;
}

/// A value with its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The value.
    pub value: Bytes,
    /// Grows with every write of the key.
    pub revision: u64,
}

/// Why a document could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentsError {
    /// The revision is not the expected one.
    #[error("somebody else wrote {0} first")]
    Conflict(String),
    /// The bucket or key has characters it may not have.
    #[error("not a bucket or key: {0}")]
    InvalidKey(String),
    /// The store cannot be reached.
    #[error("the document store is unavailable: {0}")]
    Unavailable(String),
}

/// The one rule for names of buckets and keys.
fn check(bucket: &str, key: &str) -> Result<(), DocumentsError> {
    let word = |text: &str, more: &[u8]| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte) || more.contains(&byte))
    };
    if word(bucket, b"") && key.split('.').all(|token| word(token, b"=")) {
        Ok(())
    } else {
        Err(DocumentsError::InvalidKey(format!("{bucket}/{key}")))
    }
}
