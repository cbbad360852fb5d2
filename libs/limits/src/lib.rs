//! Rate limits that hold across the cluster.
