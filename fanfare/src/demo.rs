//! The page, from the binary itself: its files, the stock client, development tokens, the server's counts.

mod tokens;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    http::{HeaderName, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use bus::{Signals, subjects};
use gateway::Gateway;
use prost::Message;
use proto::v1::{PresenceStatsQuery, PresenceStatsReply};
use serde_json::json;

pub(crate) use self::tokens::Tokens;

/// Nothing but the page's own files and its own server.
const POLICY: &str =
    "default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; frame-ancestors 'none'";
const TIMEOUT: Duration = Duration::from_secs(1);

/// Path, content type, content.
const FILES: [(&str, &str, &[u8]); 5] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_bytes!("../../web/dist/index.html"),
    ),
    (
        "/app.js",
        "text/javascript; charset=utf-8",
        include_bytes!("../../web/dist/app.js"),
    ),
    (
        "/app.css",
        "text/css; charset=utf-8",
        include_bytes!("../../web/dist/app.css"),
    ),
    (
        "/favicon.svg",
        "image/svg+xml",
        include_bytes!("../../web/dist/favicon.svg"),
    ),
    (
        "/socket.io/socket.io.min.js",
        "text/javascript; charset=utf-8",
        include_bytes!("../../web/vendor/socket.io.min.js"),
    ),
];

/// `development`: what the page is helped with where nobody else does.
pub(crate) fn router(
    gateway: Arc<Gateway>,
    signals: Arc<dyn Signals>,
    development: Option<Router>,
) -> Router {
    let begun = Instant::now();
    let mut router = development.unwrap_or_default();
    for (path, content_type, content) in FILES {
        router = router.route(path, get(move || async move { file(content_type, content) }));
    }
    router.route(
        "/demo/stats",
        get(move || async move {
            let query = PresenceStatsQuery {}.encode_to_vec().into();
            let answer = signals.request(subjects::PRESENCE_STATS, query, TIMEOUT).await;
            match answer.map(PresenceStatsReply::decode) {
                Ok(Ok(stats)) => Json(json!({
                    "connections": gateway.connections(),
                    "users": stats.users,
                    "rooms": stats.rooms,
                    "messages": gateway.metrics().messages(),
                    "uptime": begun.elapsed().as_secs(),
                }))
                .into_response(),
                Ok(Err(_)) | Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            }
        }),
    )
}

fn file(content_type: &'static str, content: &'static [u8]) -> impl IntoResponse + use<> {
    let headers: [(HeaderName, &'static str); 4] = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content)
}
