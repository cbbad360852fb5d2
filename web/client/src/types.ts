/** What goes over the wire: the events of Fanfare, as its contract names them. */

export type MessageType = "text" | "image" | "file";

/** A message of a room. `offset` is its place in the log; a room that stores nothing has none. */
export interface Message {
  id: string;
  offset?: string;
  roomId: string;
  userId: string;
  username: string;
  content: string;
  type: MessageType;
  /** Milliseconds since 1970. */
  timestamp: number;
  clientId?: string;
}

/** Somebody who is here. */
export interface OnlineUser {
  userId: string;
  username: string;
  connectedAt: number;
}

export interface Notification {
  id: string;
  type: string;
  title: string;
  body?: string;
  data?: Record<string, unknown>;
  createdAt: number | string;
}

export interface Joined {
  roomId: string;
  /** Users in the whole cluster; unknown over HTTP. */
  usersCount?: number;
  messages: Message[];
}

export interface Page {
  messages: Message[];
  hasMore: boolean;
}

export interface Conversation {
  roomId: string;
  participants: string[];
  created: boolean;
}

export interface RateLimitWarning {
  event?: string;
  limit: number;
  remaining: number;
  /** Seconds. */
  resetIn: number;
}

/** Answers of the server, and two of this module: nobody answered in time, there is no connection. */
export type ErrorCode =
  | "VALIDATION_ERROR"
  | "UNAUTHORIZED"
  | "FORBIDDEN"
  | "NOT_FOUND"
  | "RATE_LIMITED"
  | "PAYLOAD_TOO_LARGE"
  | "NO_HANDLER"
  | "UNAVAILABLE"
  | "INTERNAL"
  | "NO_ANSWER"
  | "OFFLINE";

export interface Failure {
  code: ErrorCode;
  message?: string;
  details?: { path: string; message: string }[];
  /** Seconds. */
  retryAfter?: number;
}

/** Thrown by every request that fails. */
export class FanfareError extends Error implements Failure {
  readonly code: ErrorCode;
  readonly details: { path: string; message: string }[];
  readonly retryAfter?: number;

  constructor({ code, message, details, retryAfter }: Partial<Failure>) {
    super(message ?? "");
    this.name = "FanfareError";
    this.code = code ?? "INTERNAL";
    this.details = details ?? [];
    this.retryAfter = retryAfter;
  }

  /** The same may work later: nothing is wrong with the request itself. */
  get passes(): boolean {
    return ["OFFLINE", "NO_ANSWER", "UNAVAILABLE", "RATE_LIMITED"].includes(this.code);
  }
}

type Answer<T> = (answer: ({ status: "ok" } & T) | ({ status: "error" } & Failure)) => void;
type Request<P, A> = (payload: P, answer: Answer<A>) => void;

/** Events of `/chat` that a client sends. */
export interface ChatRequests {
  "join-room": Request<{ roomId: string; history?: number }, { roomId: string; usersCount: number; offset: string; messages?: Message[] }>;
  "leave-room": Request<{ roomId: string }, { roomId: string }>;
  message: Request<
    { roomId: string; content: string; type?: MessageType; clientId?: string },
    { id: string; roomId: string; offset?: string; timestamp: number }
  >;
  getMessages: Request<{ roomId: string; before?: string; after?: string; limit?: number }, Page>;
  getOrCreateRoom: Request<{ participants: string[]; name?: string }, Conversation>;
  markMessagesRead: Request<{ roomId: string; messageId: string }, { roomId: string; messageId: string; unread: number }>;
  getOnlineUsers: Request<{ roomId?: string }, { users: OnlineUser[] }>;
  "refresh-token": Request<{ token: string }, { expiresAt?: number }>;
  typing: (payload: { roomId: string; isTyping: boolean }) => void;
}

/** Events of `/chat` that the server sends. */
export interface ChatEvents {
  message: (message: Message) => void;
  "user-typing": (typing: { roomId: string; userId: string; username: string; isTyping: boolean }) => void;
  "room-presence": (presence: { roomId: string; usersCount: number; userId?: string; action: "joined" | "left" }) => void;
  "user-left": (left: { roomId: string; userId: string; username: string }) => void;
  messagesRead: (read: { roomId: string; userId: string; messageId: string; readAt: number }) => void;
  "rate-limit-warning": (warning: RateLimitWarning) => void;
  error: (failure: Failure) => void;
}

/** Events of `/notifications` that a client sends. */
export interface NotificationRequests {
  subscribe: Request<{ since?: string }, { offset?: string; unread: number }>;
  markNotificationRead: Request<{ id: string }, { unread: number }>;
  "refresh-token": ChatRequests["refresh-token"];
}

/** Events of `/notifications` that the server sends. */
export interface NotificationEvents {
  newNotification: (notification: Notification) => void;
  error: (failure: Failure) => void;
}

/** What a request is sent with, and what it is answered with. */
export type Payload<F> = F extends Request<infer P, unknown> ? P : never;
export type Reply<F> = F extends Request<never, infer A> ? A : never;
