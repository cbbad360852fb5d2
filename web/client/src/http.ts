import { type Conversation, FanfareError, type Failure, type Message, type MessageType, type Notification, type Page } from "./types.js";

const ANSWER_MS = 10_000;

/** The way over HTTP, for where sockets do not get through. */
export class HttpApi {
  private readonly base: string;
  private readonly token: () => Promise<string>;

  constructor(base: string, token: () => Promise<string>) {
    this.base = base.replace(/\/$/, "");
    this.token = token;
  }

  send(message: { roomId: string; content: string; type: MessageType; clientId: string }): Promise<Message> {
    // A guest is a new user with every request, whom a `clientId` alone would not tell again.
    return this.ask("POST", "/api/chat/messages", message, { "idempotency-key": message.clientId });
  }

  messages(query: { roomId: string; before?: string; after?: string; limit?: number }): Promise<Page> {
    return this.ask("GET", `/api/chat/messages?${parameters(query)}`);
  }

  conversation(participants: string[], name?: string): Promise<Conversation> {
    return this.ask("POST", "/api/chat/rooms", { participants, name });
  }

  markRead(roomId: string, messageId: string): Promise<{ unread: number }> {
    return this.ask("PATCH", "/api/chat/messages/read", { roomId, messageId });
  }

  notifications(since?: string): Promise<{ notifications?: Notification[]; offset?: string; unread: number }> {
    return this.ask("GET", `/api/notifications?${parameters({ since })}`);
  }

  markNotificationRead(id: string): Promise<{ unread: number }> {
    return this.ask("PATCH", "/api/notifications/read", { id });
  }

  private async ask<T>(method: string, path: string, body?: object, more: Record<string, string> = {}): Promise<T> {
    const headers = { ...more };
    const token = await this.token();
    if (token) headers.authorization = `Bearer ${token}`;
    if (body) headers["content-type"] = "application/json";
    let answer: Response;
    try {
      const signal = AbortSignal.timeout(ANSWER_MS);
      answer = await fetch(this.base + path, { method, headers, body: body ? JSON.stringify(body) : null, signal, cache: "no-store" });
    } catch (error) {
      throw new FanfareError({ code: (error as Error).name === "TimeoutError" ? "NO_ANSWER" : "OFFLINE" });
    }
    if (answer.ok) return answer.json();
    throw await failure(answer);
  }
}

/** The server's own words, or, of something between us and it, what its status means. */
async function failure(answer: Response): Promise<FanfareError> {
  const told: Partial<Failure> = await answer.json().catch(() => ({}));
  const retryAfter = told.retryAfter ?? (Number(answer.headers.get("retry-after")) || undefined);
  const otherwise = answer.status === 429 ? "RATE_LIMITED" : answer.status >= 500 ? "UNAVAILABLE" : "INTERNAL";
  return new FanfareError({ ...told, code: told.code ?? otherwise, retryAfter });
}

function parameters(query: Record<string, string | number | undefined>): URLSearchParams {
  const given = Object.entries(query).filter((entry): entry is [string, string | number] => entry[1] !== undefined);
  return new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
}
