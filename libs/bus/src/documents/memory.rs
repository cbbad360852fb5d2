//! Documents in memory: gone with the process.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{Document, Documents, DocumentsError, check};

/// Documents in memory. Cheap to clone.
#[derive(Clone, Default)]
pub struct MemoryDocuments {
    buckets: Arc<Mutex<Buckets>>,
}

#[derive(Default)]
struct Buckets {
    revision: u64,
    documents: HashMap<String, HashMap<String, Document>>,
}

impl MemoryDocuments {
    /// No documents.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Documents for MemoryDocuments {
    async fn get(&self, bucket: &str, key: &str) -> Result<Option<Document>, DocumentsError> {
        check(bucket, key)?;
        let buckets = self.buckets.lock();
        Ok(buckets
            .documents
            .get(bucket)
            .and_then(|documents| documents.get(key))
            .cloned())
    }

    async fn put(
        &self,
        bucket: &str,
        key: &str,
        value: Bytes,
        expected: Option<u64>,
    ) -> Result<u64, DocumentsError> {
        check(bucket, key)?;
        let mut buckets = self.buckets.lock();
        let known = buckets
            .documents
            .get(bucket)
            .and_then(|documents| documents.get(key));
        if known.map(|document| document.revision) != expected {
            return Err(DocumentsError::Conflict(key.to_owned()));
        }
        buckets.revision += 1;
        let revision = buckets.revision;
        let documents = buckets.documents.entry(bucket.to_owned()).or_default();
        documents.insert(key.to_owned(), Document { value, revision });
        Ok(revision)
    }

    async fn delete(&self, bucket: &str, key: &str) -> Result<(), DocumentsError> {
        check(bucket, key)?;
        if let Some(documents) = self.buckets.lock().documents.get_mut(bucket) {
            documents.remove(key);
        }
        Ok(())
    }
}
