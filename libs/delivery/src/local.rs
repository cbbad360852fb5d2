//! The link within one process: a bounded queue.
