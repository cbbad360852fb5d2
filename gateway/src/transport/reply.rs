//! HTTP answers of the Engine.IO layer.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use sio::engine::HandshakeError;

/// An answer with a body and a content type.
pub(crate) fn with_body(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Body>,
) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// The error object of the protocol: 400, `Forbidden` 403. To a WebSocket handshake the message
/// alone, always 400, as the reference does.
pub(crate) fn refused(error: HandshakeError, websocket: bool) -> Response<Body> {
    if websocket {
        let mut response = with_body(StatusCode::BAD_REQUEST, "text/html", error.message());
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    } else {
        let status = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
        with_body(status, "application/json", error.to_json())
    }
}

/// A body of packets for a GET.
pub(crate) fn packets(body: Vec<u8>) -> Response<Body> {
    let mut response = with_body(StatusCode::OK, "text/plain; charset=UTF-8", body);
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
