//! Port GatewayLink: how a worker hands deliveries to a gateway.
