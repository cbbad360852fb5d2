//! The API as JSON: snake_case, camelCase accepted in requests.

use std::time::Duration;

use model::{ClientError, Detail};
use proto::v1::{
    Argument, BatchRequest, ConnectedSocket, DisconnectRequest, EmitResponse, EmitWithAckRequest,
    FetchSocketsRequest, HistoryRequest, JoinRoomsRequest, LeaveRoomsRequest, NotifyUserRequest, SocketAck,
    batch_result::Outcome, disconnect_request::Mode,
};
use publisher::{
    Args,
    errors::from_message,
    json::{Fields, emit_fields},
};
use serde_json::{Value, json};

use super::operations::{Request, Response};

/// Reads the fields of a request.
type Read = fn(&mut Fields<'_>) -> Request;

/// An operation as it is called here.
pub(super) struct Operation {
    /// Behind `/v1/`, and as `op` on the bus.
    pub(super) name: &'static str,
    read: Read,
}

pub(super) const OPERATIONS: [Operation; 9] = [
    operation("emit", |fields| Request::Emit(emit_fields(fields, ""))),
    operation("batch", |fields| {
        let mut emits = Vec::new();
        for mut each in fields.objects("emits") {
            emits.push(emit_fields(&mut each, ""));
            fields.join(each);
        }
        Request::Batch(BatchRequest { emits })
    }),
    operation("emit-with-ack", |fields| {
        let timeout_ms = fields.number("timeout_ms");
        Request::EmitWithAck(EmitWithAckRequest {
            emit: Some(emit_fields(fields, "")),
            timeout_ms,
        })
    }),
    operation("join-rooms", |fields| {
        Request::JoinRooms(JoinRoomsRequest {
            namespace: fields.text("namespace"),
            users: fields.texts("users"),
            sockets: fields.texts("sockets"),
            rooms: fields.texts("rooms"),
        })
    }),
    operation("leave-rooms", |fields| {
        Request::LeaveRooms(LeaveRoomsRequest {
            namespace: fields.text("namespace"),
            users: fields.texts("users"),
            sockets: fields.texts("sockets"),
            rooms: fields.texts("rooms"),
        })
    }),
    operation("disconnect", |fields| {
        Request::Disconnect(DisconnectRequest {
            namespace: fields.text("namespace"),
            users: fields.texts("users"),
            sockets: fields.texts("sockets"),
            rooms: fields.texts("rooms"),
            mode: mode(fields).into(),
        })
    }),
    operation("notify-user", |fields| {
        Request::NotifyUser(NotifyUserRequest {
            user_id: fields.text("user_id"),
            r#type: fields.text("type"),
            title: fields.text("title"),
            body: fields.text("body"),
            data: fields.raw("data").unwrap_or_default().to_owned(),
            channels: fields.texts("channels"),
            expires_in: expires_in(fields),
            idempotency_key: fields.text("idempotency_key"),
        })
    }),
    operation("history", |fields| {
        Request::History(HistoryRequest {
            namespace: fields.text("namespace"),
            room: fields.text("room"),
            before: fields.text("before"),
            after: fields.text("after"),
            limit: fields.number("limit"),
        })
    }),
    operation("fetch-sockets", |fields| {
        Request::FetchSockets(FetchSocketsRequest {
            namespace: fields.text("namespace"),
            rooms: fields.texts("rooms"),
            users: fields.texts("users"),
            page_size: i32::try_from(fields.number("page_size")).unwrap_or(i32::MAX),
            page_token: fields.text("page_token"),
        })
    }),
];

const fn operation(name: &'static str, read: Read) -> Operation {
    Operation { name, read }
}

impl Operation {
    /// The operation of this name, whether it is written `emit-with-ack`, `emit_with_ack` or `EmitWithAck`.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        let letters = |name: &str| -> String {
            let letters = name.chars().filter(char::is_ascii_alphabetic);
            letters.map(|char| char.to_ascii_lowercase()).collect()
        };
        let wanted = letters(name);
        OPERATIONS
            .iter()
            .find(|operation| letters(operation.name) == wanted)
    }

    /// The request in `fields`, all of which must be its own.
    pub(super) fn read(&self, mut fields: Fields<'_>) -> Result<Request, ClientError> {
        let request = (self.read)(&mut fields);
        fields.finish(request)
    }
}

fn mode(fields: &mut Fields<'_>) -> Mode {
    match &*fields.text("mode") {
        "" => Mode::Unspecified,
        "namespace" => Mode::Namespace,
        "connection" => Mode::Connection,
        "reconnect" => Mode::Reconnect,
        _ => {
            fields.reject("mode", "must be namespace, connection or reconnect");
            Mode::Unspecified
        }
    }
}

/// Seconds.
fn expires_in(fields: &mut Fields<'_>) -> Option<prost_types::Duration> {
    let seconds = fields.number("expires_in");
    let expires_in = Duration::from_secs(seconds.into());
    (seconds > 0).then(|| expires_in.try_into().ok()).flatten()
}

/// An answer as a JSON text.
pub(super) fn answer(response: &Response) -> String {
    match response {
        Response::Emit(emitted) => emitted_json(emitted).to_string(),
        Response::Batch(batch) => {
            let results = batch.results.iter().map(|result| match &result.outcome {
                Some(Outcome::Ok(emitted)) => emitted_json(emitted),
                Some(Outcome::Error(error)) => json!(from_message(error.clone())),
                None => Value::Null,
            });
            json!({ "results": results.collect::<Vec<_>>() }).to_string()
        }
        Response::EmitWithAck(answers) => {
            let acks: Vec<String> = answers.acks.iter().map(ack_json).collect();
            format!(
                r#"{{"acks":[{}],"missing":{}}}"#,
                acks.join(","),
                json!(answers.missing)
            )
        }
        Response::Sockets(sockets) => json!({ "sockets": sockets.sockets }).to_string(),
        Response::NotifyUser(notified) => json!({ "id": notified.id }).to_string(),
        Response::History(page) => format!(
            r#"{{"messages":[{}],"has_more":{}}}"#,
            page.messages.join(","),
            page.has_more
        ),
        Response::FetchSockets(page) => {
            let sockets: Vec<Value> = page.sockets.iter().map(socket_json).collect();
            json!({ "sockets": sockets, "next_page_token": page.next_page_token }).to_string()
        }
    }
}

fn emitted_json(emitted: &EmitResponse) -> Value {
    let mut shown = json!({ "id": emitted.id });
    if !emitted.offset.is_empty() {
        shown["offset"] = emitted.offset.clone().into();
    }
    shown
}

fn ack_json(ack: &SocketAck) -> String {
    let args = args_json(&ack.args);
    format!(
        r#"{{"socket_id":{},"user_id":{},"args":{args}}}"#,
        json!(ack.socket_id),
        json!(ack.user_id)
    )
}

fn args_json(args: &[Argument]) -> String {
    let values: Vec<publisher::Value<'_>> = args.iter().filter_map(publisher::Value::of).collect();
    // Clients sent it, so it is within the limits.
    Args::read(&values).unwrap_or_default().to_json()
}

fn socket_json(socket: &ConnectedSocket) -> Value {
    let connected_at = socket.connected_at.as_ref().map_or(0, |at| {
        at.seconds.saturating_mul(1000) + i64::from(at.nanos) / 1_000_000
    });
    json!({
        "id": socket.id,
        "namespace": socket.namespace,
        "user_id": socket.user_id,
        "username": socket.username,
        "gateway": socket.gateway,
        "connected_at": connected_at,
        "rooms": socket.rooms,
        "transport": socket.transport,
        "address": socket.address,
        "connection": socket.connection,
    })
}

/// A body that is no request.
pub(super) fn no_operation(name: &str) -> ClientError {
    let names: Vec<&str> = OPERATIONS.iter().map(|operation| operation.name).collect();
    ClientError::invalid(vec![Detail {
        path: "op".to_owned(),
        message: format!("{name:?} is none of {}", names.join(", ")),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publisher::http::OPENAPI;

    fn document() -> Value {
        serde_json::from_str(OPENAPI).unwrap()
    }

    /// The schema of an operation's request.
    fn schema<'a>(document: &'a Value, operation: &str) -> &'a Value {
        let path = &document["paths"][format!("/v1/{operation}")]["post"];
        let named = path["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str();
        let pointer = named.unwrap().trim_start_matches('#');
        document.pointer(pointer).unwrap()
    }

    #[test]
    fn the_document_has_every_operation() {
        let document = document();
        let mut named: Vec<_> = OPERATIONS
            .iter()
            .map(|each| format!("/v1/{}", each.name))
            .collect();
        named.sort_unstable();
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.keys().cloned().collect::<Vec<_>>(), named);
    }

    #[test]
    fn every_field_of_the_document_is_read() {
        let document = document();
        for operation in &OPERATIONS {
            let properties = schema(&document, operation.name)["properties"]
                .as_object()
                .unwrap();
            for field in properties.keys().filter(|field| *field != "data") {
                // No field is a number and a list.
                let shapes = ["[1.5]", "1.5"].map(|value| format!(r#"{{"{field}":{value}}}"#));
                let refused = shapes.iter().any(|text| {
                    let read = operation.read(Fields::read(text.as_bytes()).unwrap());
                    read.is_err_and(|error| error.details.iter().all(|detail| detail.message != UNKNOWN))
                });
                assert!(refused, "{}: {field} is not read", operation.name);
            }
            let error = operation
                .read(Fields::read(br#"{"other":1}"#).unwrap())
                .unwrap_err();
            assert_eq!(error.details[0].message, UNKNOWN);
        }
    }

    #[test]
    fn names_of_operations() {
        for name in ["emit-with-ack", "emit_with_ack", "EmitWithAck", "emitWithAck"] {
            assert_eq!(Operation::named(name).unwrap().name, "emit-with-ack");
        }
        assert!(Operation::named("emitt").is_none());
        assert!(Operation::named("").is_none());
    }

    const UNKNOWN: &str = "is no field of this request";
}
