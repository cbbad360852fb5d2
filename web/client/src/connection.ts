import { Manager, type ManagerOptions, type Socket } from "socket.io-client";
import {
  type ChatEvents, type ChatRequests, FanfareError, type Failure, type NotificationEvents, type NotificationRequests, type Payload, type Reply,
} from "./types.js";

/** How the connection is. `fallback`: sockets do not get through, HTTP does. `down`: nothing is tried any more. */
export interface Status {
  state: "connecting" | "connected" | "waiting" | "fallback" | "down";
  /** While connected: `websocket` or `polling`. */
  transport?: string;
  /** Connected again with everything that was missed. */
  recovered?: boolean;
  /** Why it is down or waiting. */
  error?: FanfareError;
}

export interface Options {
  /** Of the server; that of the page without. */
  url?: string;
  /** The token to show, asked for whenever it is needed; an empty one is none. */
  token?: () => string | Promise<string>;
  /** The name of a guest, where guests need no token. */
  username?: string;
  /** Connection attempts that fail before HTTP is tried. */
  fallbackAfter?: number;
  /** More for the stock client's manager. */
  manager?: Partial<ManagerOptions>;
}

type ChatSocket = Socket<ChatEvents, ChatRequests>;
type NotificationSocket = Socket<NotificationEvents, NotificationRequests>;

/** Of a namespace, in `connect_error`. */
type Refusal = Error & { data?: Failure };

/** What the connection tells whoever holds it. */
export interface Listener {
  status(status: Status): void;
  /** Connected; not recovered means that the server knows of no rooms. */
  up(recovered: boolean): void;
  /** Sockets have failed too often. */
  blocked(): void;
}

const ANSWER_MS = 10_000;
/** The server said that it cannot right now; the stock client would not come back by itself. */
const REFUSED_MS = 3_000;

/** Two namespaces over one connection of the stock client. */
export class Connection {
  readonly chat: ChatSocket;
  readonly notifications: NotificationSocket;
  private readonly manager: Manager;
  private readonly listener: Listener;
  private readonly fallbackAfter: number;
  private failures = 0;
  private wanted = false;
  private readonly refused = new Map<ChatSocket | NotificationSocket, ReturnType<typeof setTimeout>>();

  constructor(options: Options, listener: Listener) {
    this.listener = listener;
    this.fallbackAfter = options.fallbackAfter ?? 3;
    this.manager = new Manager(options.url ?? location.origin, { ...options.manager, autoConnect: false });
    const auth = (give: (auth: object) => void) => {
      const otherwise = options.username ? { username: options.username } : {};
      void Promise.resolve(options.token?.() ?? "").then((token) => give(token ? { token } : otherwise), () => give(otherwise));
    };
    this.chat = this.manager.socket("/chat", { auth }) as ChatSocket;
    this.notifications = this.manager.socket("/notifications", { auth }) as NotificationSocket;
    this.chat.on("connect", () => this.connected());
    this.chat.on("disconnect", (reason) => this.lost(reason));
    this.chat.on("connect_error", (error) => this.failed(error));
    this.notifications.on("connect_error", (error) => this.notifications.active || this.comeBack(this.notifications, refusal(error)));
  }

  connect(): void {
    this.wanted = true;
    this.failures = 0;
    this.listener.status({ state: "connecting" });
    this.chat.connect();
    this.notifications.connect();
  }

  close(): void {
    this.wanted = false;
    for (const timer of this.refused.values()) clearTimeout(timer);
    this.chat.disconnect();
    this.notifications.disconnect();
  }

  /** Emits in `/chat` and waits for the answer. */
  ask<E extends Exclude<keyof ChatRequests, "typing">>(event: E, payload: Payload<ChatRequests[E]>): Promise<Reply<ChatRequests[E]>> {
    return emit(this.chat as unknown as Socket, event, payload);
  }

  /** Emits in `/notifications` and waits for the answer. */
  askNotifications<E extends keyof NotificationRequests>(
    event: E, payload: Payload<NotificationRequests[E]>,
  ): Promise<Reply<NotificationRequests[E]>> {
    return emit(this.notifications as unknown as Socket, event, payload);
  }

  /** Shows a new token wherever we are connected; what connects later asks for one. */
  async refresh(token: string): Promise<void> {
    const shown: Promise<unknown>[] = [this.ask("refresh-token", { token })];
    if (this.notifications.connected) shown.push(this.askNotifications("refresh-token", { token }));
    await Promise.all(shown);
  }

  private connected(): void {
    this.failures = 0;
    const { engine } = this.manager;
    const status = (): Status => ({ state: "connected", transport: engine.transport.name, recovered: this.chat.recovered });
    engine.once("upgrade", () => this.chat.connected && this.listener.status(status()));
    this.listener.status(status());
    this.listener.up(this.chat.recovered);
  }

  private lost(reason: string): void {
    if (this.chat.active) this.listener.status({ state: "waiting" });
    else if (this.wanted) this.listener.status({ state: "down", error: new FanfareError({ code: "OFFLINE", message: reason }) });
  }

  private failed(cause: Refusal): void {
    if (this.chat.active) {
      this.failures += 1;
      this.listener.status({ state: "waiting", error: new FanfareError({ code: "OFFLINE", message: cause.message }) });
      if (this.failures >= this.fallbackAfter) this.listener.blocked();
      return;
    }
    const error = refusal(cause);
    this.listener.status({ state: error.passes ? "waiting" : "down", error });
    this.comeBack(this.chat, error);
  }

  private comeBack(socket: ChatSocket | NotificationSocket, error: FanfareError): void {
    if (!error.passes || !this.wanted) return;
    clearTimeout(this.refused.get(socket));
    this.refused.set(socket, setTimeout(() => socket.connect(), (error.retryAfter ?? 0) * 1000 || REFUSED_MS));
  }
}

function refusal({ data, message }: Refusal): FanfareError {
  return new FanfareError({ ...data, code: data?.code ?? "FORBIDDEN", message });
}

function emit<T>(socket: Socket, event: string, payload: unknown): Promise<T> {
  return new Promise((resolve, reject) => {
    if (!socket.connected) {
      reject(new FanfareError({ code: "OFFLINE" }));
      return;
    }
    socket.timeout(ANSWER_MS).emit(event, payload, (late: Error | null, answer: { status: string } & Partial<Failure>) => {
      if (late) reject(new FanfareError({ code: socket.connected ? "NO_ANSWER" : "OFFLINE" }));
      else if (answer?.status === "ok") resolve(answer as T);
      else reject(new FanfareError(answer ?? {}));
    });
  });
}
