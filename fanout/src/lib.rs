//! Workers: read a partition in order, deliver to the gateways that care.
