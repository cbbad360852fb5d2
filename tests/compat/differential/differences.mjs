// Where Fanfare differs from the reference and wants to: the case, the reason, and what Fanfare's transcript is.

const reasons = {
  served: "A client that sends before its CONNECT is answered is served where the answer needs no waiting; the reference closes.",
  strict: "Fanfare holds to the grammar of the protocol document, where the reference's parser lets it pass.",
  raw: "Arguments and attachments go through as the client wrote them: nothing is parsed and written again.",
  query: "A query behind a namespace belongs to older clients; it is dropped, and the namespace counts.",
  close: "A close packet closes the session on either transport, as the protocol document says.",
  version: "A version that nobody speaks is refused; the reference takes it for version 3 where that is allowed.",
  told: "The refusal says why, with the protocol's own error object or text; the reference answers without a body, with 500, or hangs up.",
  refused: "A body that is no payload is answered 400, as the official suite allows; the reference says ok and closes.",
  gone: "A session that broke the protocol is gone at once; the reference lets two more polls pass. Clients reconnect either way.",
};

/** case → {reason, fanfare: transcript} */
export const differences = new Map([
  ["packet: event without payload", {
    reason: reasons.strict,
    fanfare: [
      "> 42",
      "closed",
    ],
  }],
  ["packet: event with a number", {
    reason: reasons.strict,
    fanfare: [
      "> 42123",
      "closed",
    ],
  }],
  ["packet: event with white space around the JSON", {
    reason: reasons.strict,
    fanfare: [
      "> 42 [\"message-with-ack\", 1 ] ",
      "closed",
    ],
  }],
  ["packet: event with a byte order mark", {
    reason: reasons.strict,
    fanfare: [
      "> 42﻿[\"message-with-ack\"]",
      "closed",
    ],
  }],
  ["packet: ack without id", {
    reason: reasons.strict,
    fanfare: [
      "> 43[]",
      "closed",
    ],
  }],
  ["packet: ack without payload", {
    reason: reasons.strict,
    fanfare: [
      "> 431",
      "closed",
    ],
  }],
  ["packet: binary event with a fraction for a number", {
    reason: reasons.strict,
    fanfare: [
      "> 451-[\"message\",{\"_placeholder\":true,\"num\":0.5}]",
      "> <010203>",
      "closed",
    ],
  }],
  ["packet: event with escapes", {
    reason: reasons.raw,
    fanfare: [
      "> 42[\"mess\\u0061ge\",\"\\ud83c\\udfba\"]",
      "< 42[\"message-back\",\"\\ud83c\\udfba\"]",
      "< 4399[\"probe\"]",
    ],
  }],
  ["packet: event with the same key twice", {
    reason: reasons.raw,
    fanfare: [
      "> 42[\"message\",{\"a\":1,\"a\":2}]",
      "< 42[\"message-back\",{\"a\":1,\"a\":2}]",
      "< 4399[\"probe\"]",
    ],
  }],
  ["packet: event with large numbers", {
    reason: reasons.raw,
    fanfare: [
      "> 42[\"message\",12345678901234567890,1e400,0.1]",
      "< 42[\"message-back\",12345678901234567890,1e400,0.1]",
      "< 4399[\"probe\"]",
    ],
  }],
  ["packet: binary event with two in reverse", {
    reason: reasons.raw,
    fanfare: [
      "> 452-[\"message\",{\"_placeholder\":true,\"num\":1},{\"_placeholder\":true,\"num\":0}]",
      "> <010203>",
      "> <09>",
      "< 452-[\"message-back\",{\"_placeholder\":true,\"num\":1},{\"_placeholder\":true,\"num\":0}]",
      "< <010203>",
      "< <09>",
      "< 4399[\"probe\"]",
    ],
  }],
  ["packet: binary event that uses one twice", {
    reason: reasons.raw,
    fanfare: [
      "> 451-[\"message\",{\"_placeholder\":true,\"num\":0},{\"_placeholder\":true,\"num\":0}]",
      "> <010203>",
      "< 451-[\"message-back\",{\"_placeholder\":true,\"num\":0},{\"_placeholder\":true,\"num\":0}]",
      "< <010203>",
      "< 4399[\"probe\"]",
    ],
  }],
  ["packet: binary event that uses none", {
    reason: reasons.raw,
    fanfare: [
      "> 451-[\"message\"]",
      "> <010203>",
      "< 451-[\"message-back\"]",
      "< <010203>",
      "< 4399[\"probe\"]",
    ],
  }],
  ["packet: binary event with a false placeholder", {
    reason: reasons.raw,
    fanfare: [
      "> 451-[\"message\",{\"_placeholder\":false,\"num\":0}]",
      "> <010203>",
      "< 451-[\"message-back\",{\"_placeholder\":false,\"num\":0}]",
      "< <010203>",
      "< 4399[\"probe\"]",
    ],
  }],
  ["packet: connect with a query in the namespace", {
    reason: reasons.query,
    fanfare: [
      "> 40/custom?token=123,",
      "< 40/custom,{\"sid\":\"SID\"}",
      "< 42/custom,[\"auth\",{}]",
      "< 4399[\"probe\"]",
    ],
  }],
  ["engine: a close", {
    reason: reasons.close,
    fanfare: [
      "> 1",
      "closed",
    ],
  }],
  ["http: no version", {
    reason: reasons.version,
    fanfare: [
      'GET /socket.io/?transport=polling -> 400 application/json {"code":5,"message":"Unsupported protocol version"}',
    ],
  }],
  ["http: version 5", {
    reason: reasons.version,
    fanfare: [
      'GET /socket.io/?EIO=5&transport=polling -> 400 application/json {"code":5,"message":"Unsupported protocol version"}',
    ],
  }],
  ["http: version abc", {
    reason: reasons.version,
    fanfare: [
      'GET /socket.io/?EIO=abc&transport=polling -> 400 application/json {"code":5,"message":"Unsupported protocol version"}',
    ],
  }],
  ["http: a WebSocket handshake with no version", {
    reason: reasons.version,
    fanfare: [
      "refused 400 Unsupported protocol version",
    ],
  }],
  ["http: a WebSocket handshake with version abc", {
    reason: reasons.version,
    fanfare: [
      "refused 400 Unsupported protocol version",
    ],
  }],
  ["http: a WebSocket handshake with polling", {
    reason: reasons.told,
    fanfare: [
      "refused 400 Bad request",
    ],
  }],
  ["polling: a post of octets", {
    reason: reasons.told,
    fanfare: [
      "POST /socket.io/?EIO=4&transport=polling&sid=SID -> 400 application/json {\"code\":3,\"message\":\"Bad request\"}",
      "GET /socket.io/?EIO=4&transport=polling&sid=SID -> 400 application/json {\"code\":1,\"message\":\"Session ID unknown\"}",
    ],
  }],
  ["polling: two requests at once", {
    reason: reasons.told,
    fanfare: [
      "GET /socket.io/?EIO=4&transport=polling&sid=SID -> 200 text/plain; charset=UTF-8 1",
      "GET /socket.io/?EIO=4&transport=polling&sid=SID -> 400 application/json {\"code\":3,\"message\":\"Bad request\"}",
      "GET /socket.io/?EIO=4&transport=polling&sid=SID -> 400 application/json {\"code\":1,\"message\":\"Session ID unknown\"}",
    ],
  }],
  ["polling: a put to a session", {
    reason: reasons.told,
    fanfare: [
      "PUT /socket.io/?EIO=4&transport=polling&sid=SID -> 400 application/json {\"code\":3,\"message\":\"Bad request\"}",
    ],
  }],
  ["polling: a post of two packets", {
    reason: reasons.served,
    fanfare: [
      "POST /socket.io/?EIO=4&transport=polling&sid=SID -> 200 text/html ok",
      "heard 40{\"sid\":\"SID\"} | 42[\"auth\",{}] | 42[\"message-back\",1]",
    ],
  }],
  ["polling: a post of base64 without a header", {
    reason: reasons.gone,
    fanfare: [
      "POST /socket.io/?EIO=4&transport=polling&sid=SID -> 200 text/html ok",
      "heard {\"code\":1,\"message\":\"Session ID unknown\"}",
    ],
  }],
  ["polling: a post of a binary event", {
    reason: reasons.served,
    fanfare: [
      "POST /socket.io/?EIO=4&transport=polling&sid=SID -> 200 text/html ok",
      "heard 40{\"sid\":\"SID\"} | 42[\"auth\",{}] | 451-[\"message-back\",{\"_placeholder\":true,\"num\":0}] | bAQID",
    ],
  }],
  ["polling: a post of an illegal packet", {
    reason: reasons.gone,
    fanfare: [
      "POST /socket.io/?EIO=4&transport=polling&sid=SID -> 200 text/html ok",
      "heard {\"code\":1,\"message\":\"Session ID unknown\"}",
    ],
  }],
  ["polling: a post of broken base64", {
    reason: reasons.refused,
    fanfare: [
      "POST /socket.io/?EIO=4&transport=polling&sid=SID -> 400 application/json {\"code\":3,\"message\":\"Bad request\"}",
      "heard {\"code\":1,\"message\":\"Session ID unknown\"}",
    ],
  }],
  ["polling: a post of nothing", {
    reason: reasons.refused,
    fanfare: [
      "POST /socket.io/?EIO=4&transport=polling&sid=SID -> 400 application/json {\"code\":3,\"message\":\"Bad request\"}",
      "heard {\"code\":1,\"message\":\"Session ID unknown\"}",
    ],
  }],
  ["polling: a post of an unknown packet", {
    reason: reasons.refused,
    fanfare: [
      "POST /socket.io/?EIO=4&transport=polling&sid=SID -> 400 application/json {\"code\":3,\"message\":\"Bad request\"}",
      "heard {\"code\":1,\"message\":\"Session ID unknown\"}",
    ],
  }],
  ["polling: a post of a separator alone", {
    reason: reasons.refused,
    fanfare: [
      "POST /socket.io/?EIO=4&transport=polling&sid=SID -> 400 application/json {\"code\":3,\"message\":\"Bad request\"}",
      "heard {\"code\":1,\"message\":\"Session ID unknown\"}",
    ],
  }],
  ["polling: a post of a separator at the end", {
    reason: reasons.refused,
    fanfare: [
      "POST /socket.io/?EIO=4&transport=polling&sid=SID -> 400 application/json {\"code\":3,\"message\":\"Bad request\"}",
      "heard {\"code\":1,\"message\":\"Session ID unknown\"}",
    ],
  }],
  ["polling: a post of two separators", {
    reason: reasons.refused,
    fanfare: [
      "POST /socket.io/?EIO=4&transport=polling&sid=SID -> 400 application/json {\"code\":3,\"message\":\"Bad request\"}",
      "heard {\"code\":1,\"message\":\"Session ID unknown\"}",
    ],
  }],
]);
