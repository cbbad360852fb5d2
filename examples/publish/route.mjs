// app/api/orders/route.js of a Next.js application, or any serverless function that takes a Request: it holds no
// socket, so it asks Fanfare to tell the browsers. Environment:
//   FANFARE_PUBLISHER  `http://HOST:7003` of the publisher API
//   FANFARE_API_KEY    a key with scope `publish`

/** Sends an event; `to` is any of `{rooms, users, sockets, except}`, everybody in the namespace without. */
export async function emit(namespace, event, args, to = {}) {
  const response = await fetch(`${process.env.FANFARE_PUBLISHER}/v1/emit`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      authorization: `Bearer ${process.env.FANFARE_API_KEY}`,
    },
    body: JSON.stringify({ namespace, event, args, ...to }),
    signal: AbortSignal.timeout(5000),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${answer.code}: ${answer.message} ${JSON.stringify(answer.details ?? [])}`);
  return answer;
}

/** `POST /api/orders {orderId, userId, total}`: tells the user's browsers. */
export async function POST(request) {
  const order = await request.json();
  const { id } = await emit("/chat", "order-placed", [{ orderId: order.orderId, total: order.total }], {
    users: [order.userId],
    // The platform may run this function again: the browsers are told once.
    idempotency_key: `order-placed:${order.orderId}`,
  });
  return Response.json({ eventId: id }, { status: 201 });
}
