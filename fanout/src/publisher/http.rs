//! The API over HTTP and JSON: `POST /v1/<operation>`.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Path, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::{get, post},
};
use model::{ClientError, ErrorCode, TraceContext};
use publisher::json::Fields;
use tokio::time::timeout;

use super::{
    front::Front,
    json::{Operation, answer},
    operations::Request,
};

/// What the OpenAPI document says.
pub(super) const OPENAPI: &str = include_str!("openapi.json");
/// A body must have come within this time.
const BODY: Duration = Duration::from_secs(30);
const IDEMPOTENCY_KEY: &str = "idempotency-key";

#[derive(Clone)]
struct Http {
    front: Arc<Front>,
    max_body: usize,
}

pub(super) fn router(front: Arc<Front>, max_body: usize) -> Router {
    Router::new()
        .route("/v1/{operation}", post(call).fallback(wrong_method))
        .route("/openapi.json", get(openapi))
        .fallback(nothing)
        .with_state(Http { front, max_body })
}

async fn call(
    State(http): State<Http>,
    Path(operation): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match http.call(&operation, &headers, body).await {
        Ok(answer) => json(StatusCode::OK, answer),
        Err(error) => failed(&error),
    }
}

impl Http {
    async fn call(&self, name: &str, headers: &HeaderMap, body: Body) -> Result<String, ClientError> {
        let header = |name| {
            headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        let caller = self.front.identify(header(AUTHORIZATION.as_str()))?;
        let operation = Operation::named(name).filter(|operation| operation.name == name);
        let operation =
            operation.ok_or_else(|| ClientError::new(ErrorCode::NotFound, "There is no such operation"))?;
        let body = match timeout(BODY, to_bytes(body, self.max_body)).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return Err(self.unread(&error)),
            Err(_) => {
                return Err(ClientError::new(
                    ErrorCode::Unavailable,
                    "The body did not come in time",
                ));
            }
        };
        let mut request = operation.read(Fields::read(&body)?)?;
        if let Some(key) = header(IDEMPOTENCY_KEY) {
            set_key(&mut request, key);
        }
        let parent = || header(TraceContext::HEADER)?.parse().ok();
        Ok(answer(&self.front.call("http", &caller, parent, request).await?))
    }

    fn unread(&self, error: &axum::Error) -> ClientError {
        tracing::debug!(%error, "a body could not be read");
        ClientError::new(
            ErrorCode::PayloadTooLarge,
            format!("A request may have {} bytes", self.max_body),
        )
    }
}

/// The header `Idempotency-Key` stands for the field, unless that is there.
fn set_key(request: &mut Request, key: &str) {
    let field = match request {
        Request::Emit(emit) => &mut emit.idempotency_key,
        Request::EmitWithAck(ask) => &mut ask.emit.get_or_insert_default().idempotency_key,
        Request::NotifyUser(notify) => &mut notify.idempotency_key,
        _ => return,
    };
    if field.is_empty() {
        key.clone_into(field);
    }
}

async fn openapi() -> Response {
    json(StatusCode::OK, OPENAPI.to_owned())
}

async fn wrong_method() -> Response {
    let error = ClientError::new(ErrorCode::ValidationError, "Operations are called by POST");
    let mut response = failed(&error);
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
        .headers_mut()
        .insert("allow", HeaderValue::from_static("POST"));
    response
}

async fn nothing() -> Response {
    failed(&ClientError::new(ErrorCode::NotFound, "There is nothing here"))
}

fn failed(error: &ClientError) -> Response {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, serde_json::to_string(error).unwrap_or_default());
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert("retry-after", seconds.into());
    }
    if status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert("www-authenticate", scheme);
    }
    response
}

fn json(status: StatusCode, body: String) -> Response {
    let kind = HeaderValue::from_static("application/json");
    (status, [(CONTENT_TYPE, kind)], body).into_response()
}
