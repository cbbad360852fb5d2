//! The HTTP fallback (CONTRACT section 5): what clients without a socket can do, by the same rules as the events.

mod problem;

use std::{net::IpAddr, sync::Arc};

use ::notifications::NAMESPACE;
use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, patch, post},
};
use bytes::Bytes;
use bytestring::ByteString;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use model::{ClientError, Detail, ErrorCode, Namespace, TraceContext, User};
use serde::Serialize;
use sio::packet::{DecodeError, RawArgs};

pub(crate) use self::problem::not_found;
use self::problem::{Problem, wrong_method};
use crate::{
    events::{
        Ask, Caller, Core, GetOrCreate, History, Input, MarkNotification, MarkRead, SendMessage, Subscribe,
        Visitor, by_request,
    },
    http::ClientAddress,
    limits::visitor as visitor_key,
    session::{Success, json},
    spans,
    transport::{EngineServer, reply},
};

/// What these requests are about, where they do not say so.
const CHAT: &str = "/chat";
/// Characters of the longest `Idempotency-Key`.
const MAX_KEY: usize = 128;
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Query parameters that are numbers; the others are text.
const NUMBERS: [&str; 1] = ["limit"];
const OPENAPI: &str = include_str!("api/openapi.json");

/// What the requests work with.
#[derive(Clone)]
struct Api {
    core: Arc<Core>,
    /// Has the origins and the limits of a request's body.
    engine: Arc<EngineServer>,
}

/// Where a request's fields stand.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Fields {
    Query,
    Body,
}

/// A request as one of the events.
#[derive(Copy, Clone)]
struct Operation {
    event: &'static str,
    fields: Fields,
    /// The one namespace it is about; any when not said.
    place: Option<&'static str>,
    /// Another name for a field: `(field, alias)`.
    alias: Option<(&'static str, &'static str)>,
}

/// Everything under `/api`.
pub(crate) fn router(core: Arc<Core>, engine: Arc<EngineServer>) -> Router {
    let api = Api { core, engine };
    let routes = Router::new()
        .route("/chat/messages", get(messages).post(send))
        .route("/chat/messages/read", patch(read))
        .route("/chat/rooms", post(room))
        .route("/notifications", get(notifications))
        .route("/notifications/read", patch(read_notification))
        .route("/openapi.json", get(openapi))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(api.clone(), origins))
        .with_state(api);
    Router::new().nest("/api", routes)
}

async fn send(State(api): State<Api>, request: Request) -> Response {
    let operation = Operation {
        alias: Some(("content", "message")),
        ..Operation::with_body("message")
    };
    let answer = api.answer::<SendMessage>(operation, request).await;
    respond(answer, |_| StatusCode::CREATED)
}

async fn messages(State(api): State<Api>, request: Request) -> Response {
    let answer = api.answer::<History>(Operation::with_query("getMessages"), request);
    respond(answer.await, |_| StatusCode::OK)
}

async fn read(State(api): State<Api>, request: Request) -> Response {
    let answer = api.answer::<MarkRead>(Operation::with_body("markMessagesRead"), request);
    respond(answer.await, |_| StatusCode::OK)
}

async fn room(State(api): State<Api>, request: Request) -> Response {
    let answer = api.answer::<GetOrCreate>(Operation::with_body("getOrCreateRoom"), request);
    respond(answer.await, |room| match room.created {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    })
}

async fn notifications(State(api): State<Api>, request: Request) -> Response {
    let operation = Operation::with_query("subscribe").at(NAMESPACE);
    respond(api.answer::<Subscribe>(operation, request).await, |_| {
        StatusCode::OK
    })
}

async fn read_notification(State(api): State<Api>, request: Request) -> Response {
    let operation = Operation::with_body("markNotificationRead").at(NAMESPACE);
    let answer = api.answer::<MarkNotification>(operation, request);
    respond(answer.await, |_| StatusCode::OK)
}

async fn openapi() -> Response {
    reply::with_body(StatusCode::OK, "application/json", OPENAPI)
}

/// Pages of other origins are refused, those of the listed ones told that they may read.
async fn origins(State(api): State<Api>, request: Request, next: Next) -> Response {
    let origins = api.engine.origins();
    let asked = request.headers().clone();
    if request.method() == Method::OPTIONS {
        let mut response = reply::empty(StatusCode::NO_CONTENT);
        origins.preflight(&asked, response.headers_mut());
        return response;
    }
    let mut response = if origins.allow(&asked) {
        next.run(request).await
    } else {
        let error = ClientError::new(ErrorCode::Forbidden, "Pages of this origin may not do this");
        Problem::from(error).into_response()
    };
    let headers = response.headers_mut();
    origins.decorate(&asked, headers);
    if headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        let shown = HeaderValue::from_static("Retry-After");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, shown);
    }
    response
}

fn respond<T: Serialize>(answer: Result<T, Problem>, status: impl FnOnce(&T) -> StatusCode) -> Response {
    match answer {
        Ok(value) => {
            let body = json(&Success {
                status: "ok",
                value: &value,
            });
            let mut response = reply::with_body(status(&value), "application/json", body);
            let never = HeaderValue::from_static("no-store");
            response.headers_mut().insert(header::CACHE_CONTROL, never);
            response
        }
        Err(problem) => problem.into_response(),
    }
}

impl Operation {
    fn with_body(event: &'static str) -> Self {
        Self {
            event,
            fields: Fields::Body,
            place: None,
            alias: None,
        }
    }

    fn with_query(event: &'static str) -> Self {
        Self {
            fields: Fields::Query,
            ..Self::with_body(event)
        }
    }
}

impl Operation {
    fn at(self, place: &'static str) -> Self {
        Self {
            place: Some(place),
            ..self
        }
    }
}

impl Api {
    async fn answer<A: Ask>(&self, operation: Operation, request: Request) -> Result<A::Answer, Problem> {
        let answer = self.try_answer::<A>(operation, request).await;
        if let Err(problem) = &answer {
            self.core.metrics.failed(problem.error.code);
        }
        answer
    }

    async fn try_answer<A: Ask>(&self, operation: Operation, request: Request) -> Result<A::Answer, Problem> {
        let (parts, body) = request.into_parts();
        let mut query = query(&parts)?;
        let ip = client(&parts);
        let namespace = namespace(&mut query, operation.place)?;
        let user = self.identify(&namespace, &parts, ip).await?;
        let key = if user.anonymous {
            visitor_key(ip)
        } else {
            user.id.to_string()
        };
        let mut visitor = Visitor {
            core: Arc::clone(&self.core),
            namespace,
            user,
            key,
            trace: None,
        };
        self.admit(&visitor, operation.event).await?;
        visitor.may_emit(operation.event)?;
        let fields = match operation.fields {
            Fields::Query => object(&query).into(),
            Fields::Body => self.body(&parts.headers, body).await?,
        };
        self.core
            .metrics
            .received(&visitor.namespace, operation.event, fields.len());
        visitor.trace = spans::receive_request(
            &self.core.tracer,
            parts
                .headers
                .get(TraceContext::HEADER)
                .and_then(|value| value.to_str().ok()),
            operation.event,
            &visitor.namespace,
            fields.len(),
        );
        let key = idempotency_key(&parts.headers)?;
        let mut input = Input::new(std::str::from_utf8(&fields).ok()).with_key(key);
        if let Some((field, alias)) = operation.alias {
            input = input.with_alias(field, alias);
        }
        Ok(by_request::<A>(&visitor, input).await?)
    }

    async fn identify(&self, namespace: &Namespace, parts: &Parts, ip: IpAddr) -> Result<Arc<User>, Problem> {
        let shown = self.core.authenticator.shown(&parts.headers, parts.uri.query());
        let user = self.core.identify(namespace, None, &shown, ip).await;
        self.core.metrics.authenticated(user.as_ref().err());
        Ok(user?)
    }

    /// Spends one event of the user's.
    async fn admit(&self, visitor: &Visitor, event: &str) -> Result<(), Problem> {
        let Visitor { namespace, key, .. } = visitor;
        let Err(error) = self.core.limits.admit_visitor(namespace, key, event).await else {
            return Ok(());
        };
        self.core.metrics.limited(error.kind.as_str(), "refused");
        Err(error.to_error().into())
    }

    async fn body(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
        if !is_json(headers) {
            return Err(Problem::of(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The content type must be application/json",
            ));
        }
        let options = self.engine.options();
        let limited = Limited::new(body, options.max_payload);
        match tokio::time::timeout(options.body_timeout, limited.collect()).await {
            Ok(Ok(body)) => {
                let body = body.to_bytes();
                let payload = ByteString::try_from(body.clone()).map(RawArgs::parse);
                if payload == Ok(Err(DecodeError::TooDeep)) {
                    return Err(invalid("", "is nested too deep").into());
                }
                Ok(body)
            }
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let error = ClientError::new(ErrorCode::PayloadTooLarge, "The body is too large");
                Err(error.into())
            }
            Ok(Err(_)) => Err(Problem::of(StatusCode::BAD_REQUEST, "The body cannot be read")),
            Err(_) => Err(Problem::of(
                StatusCode::REQUEST_TIMEOUT,
                "The body did not come in time",
            )),
        }
    }
}

fn invalid(path: &str, message: &str) -> ClientError {
    ClientError::invalid(vec![Detail {
        path: path.to_owned(),
        message: message.to_owned(),
    }])
}

fn query(parts: &Parts) -> Result<Vec<(String, String)>, ClientError> {
    let query = Query::try_from_uri(&parts.uri);
    query
        .map(|Query(pairs)| pairs)
        .map_err(|_| invalid("", "the query cannot be read"))
}

/// Takes `namespace` out of the query; what it says does not count where there is but one `place`.
fn namespace(query: &mut Vec<(String, String)>, place: Option<&str>) -> Result<Namespace, ClientError> {
    let name = query.iter().rev().find(|(name, _)| name == "namespace");
    let name = place.unwrap_or_else(|| name.map_or(CHAT, |(_, value)| value));
    let namespace = Namespace::new(name).map_err(|error| invalid("namespace", &error.to_string()))?;
    query.retain(|(name, _)| name != "namespace");
    Ok(namespace)
}

fn client(parts: &Parts) -> IpAddr {
    let address = parts.extensions.get::<ClientAddress>();
    // Every request comes by the public listener, which adds it.
    address.map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |address| address.0)
}

/// A query as the JSON object that the event would have; of two values the last counts.
fn object(query: &[(String, String)]) -> String {
    let mut fields = serde_json::Map::new();
    for (name, text) in query {
        let number = text
            .parse::<u64>()
            .ok()
            .filter(|_| NUMBERS.contains(&name.as_str()));
        let value = number.map_or_else(|| text.as_str().into(), serde_json::Value::from);
        fields.insert(name.clone(), value);
    }
    serde_json::Value::Object(fields).to_string()
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = value.split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case("application/json")
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ClientError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let key = value.to_str().ok().map(str::trim);
    match key.filter(|key| !key.is_empty() && key.len() <= MAX_KEY) {
        Some(key) => Ok(Some(key)),
        None => Err(invalid(
            "Idempotency-Key",
            "must have 1 to 128 printable ASCII characters",
        )),
    }
}
