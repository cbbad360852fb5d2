/**
 * Fanfare's client: chat and notifications with types, on the stock Socket.IO client. What is sent waits in an outbox
 * until the server has it, once; where sockets do not get through, everything but presence goes over HTTP.
 */

import { Connection, type Options, type Status } from "./connection.js";
import { Emitter } from "./emitter.js";
import { HttpApi } from "./http.js";
import { Outbox, type Outgoing } from "./outbox.js";
import { Room, sequence } from "./room.js";
import {
  type ChatEvents, type Conversation, FanfareError, type Joined, type Message, type MessageType, type Notification, type OnlineUser,
  type Page, type RateLimitWarning,
} from "./types.js";

export type { Options, Status } from "./connection.js";
export type { Outgoing } from "./outbox.js";
export { sequence } from "./room.js";
export * from "./types.js";

export interface FanfareOptions extends Options {
  /** Whose outbox it is: the user's id. Another user's messages stay where they are. */
  owner: string;
  /** The name of the database that keeps the outbox. */
  database?: string;
}

export interface FanfareEvents {
  status: (status: Status) => void;
  /** In the room, again too: `messages` are those that were not told yet, ascending. */
  joined: (joined: Joined) => void;
  /** The server does not let us in. */
  refused: (roomId: string, error: FanfareError) => void;
  message: (message: Message) => void;
  /** A message on its way out has changed: `gone` once the server has it, with what it has made of it. */
  outgoing: (item: Outgoing, gone?: Partial<Message>) => void;
  typing: ChatEvents["user-typing"];
  presence: ChatEvents["room-presence"];
  left: ChatEvents["user-left"];
  read: ChatEvents["messagesRead"];
  notification: (notification: Notification) => void;
  /** Notifications that are not read. */
  unread: (count: number) => void;
  warning: (warning: RateLimitWarning) => void;
  /** Nothing more may be sent until then (milliseconds since 1970). */
  limited: (until: number) => void;
  error: (error: FanfareError) => void;
}

const HISTORY = 50;
const LONGEST_PAGE = 200;
/** The server ends "typing" after 5 s. */
const TYPING_EVERY_MS = 2_500;
const RETRY_MS = 2_000;
/** The server knows a `clientId` for 120 s after it has stored the message; the rest is for a last try on its way. */
const KNOWN_MS = 100_000;
/** So many pages of a room are looked through for a message: at least what a room keeps by default. */
const MOST_PAGES = 5;
/** A user's clock may be ahead of the server's. */
const CLOCKS_MS = 3_600_000;
const POLL_MS = 3_000;
/** Polls a notification's poll: they may come later than messages. */
const NOTIFICATIONS_EVERY = 5;

/** One user's chat and notifications. */
export class Fanfare extends Emitter<FanfareEvents> {
  readonly outbox: Outbox;
  status: Status = { state: "connecting" };
  private readonly connection: Connection;
  private readonly http: HttpApi;
  private readonly token: () => Promise<string>;
  private readonly rooms = new Map<string, Room>();
  /** Rooms that were left, of which the server may not know yet. */
  private readonly left = new Set<string>();
  private readonly notified = new Set<string>();
  private typingTold = new Map<string, number>();
  private sending = false;
  /** The server said that nothing more may be sent until then. */
  private pausedUntil = 0;
  private resume?: ReturnType<typeof setTimeout>;
  private subscribing?: ReturnType<typeof setTimeout>;
  private poll?: ReturnType<typeof setTimeout>;
  private polls = 0;
  private closed = false;

  constructor(options: FanfareOptions) {
    super();
    this.outbox = new Outbox(options.database ?? "fanfare", options.owner);
    this.token = async () => (await options.token?.()) ?? "";
    this.http = new HttpApi(options.url ?? location.origin, this.token);
    this.connection = new Connection(options, {
      status: (status) => this.is(status),
      up: (recovered) => this.up(recovered),
      blocked: () => this.startPolling(),
    });
    const { chat, notifications } = this.connection;
    chat.on("message", (message) => {
      const room = this.rooms.get(message.roomId);
      if (room) room.take(message);
      else this.told(message);
    });
    chat.on("user-typing", (typing) => this.tell("typing", typing));
    chat.on("room-presence", (presence) => this.tell("presence", presence));
    chat.on("user-left", (left) => this.tell("left", left));
    chat.on("messagesRead", (read) => this.tell("read", read));
    chat.on("rate-limit-warning", (warning) => this.tell("warning", warning));
    chat.on("error", (failure) => this.tell("error", new FanfareError(failure)));
    notifications.on("connect", () => void this.subscribe());
    notifications.on("newNotification", (notification) => this.notify(notification));
    notifications.on("error", (failure) => this.tell("error", new FanfareError(failure)));
  }

  /** Connects, and sends what an earlier page has left. */
  async connect(): Promise<void> {
    await this.outbox.load();
    for (const item of this.outbox.items) this.tell("outgoing", item);
    if (!this.closed) this.connection.connect();
  }

  /** Ends everything; what is not sent stays in the outbox. */
  async close(): Promise<void> {
    this.closed = true;
    clearTimeout(this.resume);
    clearTimeout(this.subscribing);
    clearTimeout(this.poll);
    this.connection.close();
    await this.outbox.close();
  }

  /** Shows a new token of the same user before the old one ends. */
  async refresh(token: string): Promise<void> {
    await this.connection.refresh(token);
  }

  // ---- rooms ----

  /** Goes into a room, and again after every lost session, until `leave`. Answered by `joined` or `refused`. */
  join(roomId: string, history = HISTORY): void {
    if (this.rooms.has(roomId)) return;
    const room = new Room(roomId, history, (message) => this.told(message));
    this.rooms.set(roomId, room);
    this.left.delete(roomId);
    if (this.status.state === "connected") void this.enter(room);
    else if (this.status.state === "fallback") void this.fetchRoom(room);
  }

  async leave(roomId: string): Promise<void> {
    this.rooms.delete(roomId);
    this.left.add(roomId);
    if (this.status.state === "connected") await this.exit(roomId);
  }

  /** The room of exactly these users and ourselves. */
  conversation(participants: string[], name?: string): Promise<Conversation> {
    if (this.status.state === "fallback") return this.http.conversation(participants, name);
    return this.connection.ask("getOrCreateRoom", name ? { participants, name } : { participants });
  }

  /** A page of history, ascending. */
  messages(query: { roomId: string; before?: string; after?: string; limit?: number }): Promise<Page> {
    return this.status.state === "fallback" ? this.http.messages(query) : this.connection.ask("getMessages", query);
  }

  /** Who is in a room; nobody can be told of over HTTP. */
  async online(roomId: string): Promise<OnlineUser[]> {
    if (this.status.state === "fallback") return [];
    return (await this.connection.ask("getOnlineUsers", { roomId })).users;
  }

  async markRead(roomId: string, messageId: string): Promise<number> {
    const work = this.status.state === "fallback"
      ? this.http.markRead(roomId, messageId)
      : this.connection.ask("markMessagesRead", { roomId, messageId });
    return (await work).unread;
  }

  /** Tells the others, now and then, for as long as this is called. */
  typing(roomId: string, isTyping: boolean): void {
    const last = this.typingTold.get(roomId);
    const now = Date.now();
    if (!this.connection.chat.connected || (isTyping ? last !== undefined && now - last < TYPING_EVERY_MS : last === undefined)) return;
    if (isTyping) this.typingTold.set(roomId, now);
    else this.typingTold.delete(roomId);
    this.connection.chat.volatile.emit("typing", { roomId, isTyping });
  }

  // ---- sending ----

  /** Puts a message into the outbox; `outgoing` tells what becomes of it. */
  send(roomId: string, content: string, type: MessageType = "text"): Outgoing {
    const item = this.outbox.add({ roomId, content, type, clientId: newId() });
    if (this.reachable() && Date.now() >= this.pausedUntil) item.state = "sending";
    void this.flush();
    return item;
  }

  /** Sends a message that failed once more. */
  retry(item: Outgoing): void {
    this.becomes(item, "waiting");
    void this.flush();
  }

  /** Gives a message up. */
  async discard(item: Outgoing): Promise<void> {
    await this.outbox.remove(item);
  }

  // ---- notifications ----

  async markNotificationRead(id: string): Promise<void> {
    const work = this.status.state === "fallback"
      ? this.http.markNotificationRead(id)
      : this.connection.askNotifications("markNotificationRead", { id });
    this.tell("unread", (await work).unread);
  }

  // ---- the connection ----

  private is(status: Status): void {
    // Attempts go on behind the fallback; it ends when one succeeds, or none is made any more.
    if (this.status.state === "fallback" && ["waiting", "connecting"].includes(status.state)) return;
    if (status.state !== "waiting") this.stopPolling();
    this.status = status;
    this.tell("status", status);
  }

  private up(recovered: boolean): void {
    if (!recovered) {
      this.left.clear();
      for (const room of this.rooms.values()) room.entered = false;
    }
    for (const roomId of this.left) void this.exit(roomId).catch((error) => this.tell("error", error));
    for (const room of this.rooms.values()) if (!room.entered) void this.enter(room);
    this.typingTold.clear();
    void this.flush();
  }

  private reachable(): boolean {
    return ["connected", "fallback"].includes(this.status.state);
  }

  private async enter(room: Room): Promise<void> {
    const { id: roomId, history } = room;
    room.hold();
    try {
      const answer = await this.connection.ask("join-room", { roomId, history });
      const page = answer.messages ?? [];
      const first = page[0]?.offset;
      // After an absence longer than a page, the rest is read from where we were.
      const gap = room.last && first && page.length >= history && sequence(first) > sequence(room.last);
      const before = gap ? await this.between(roomId, room.last!, first!).catch((error) => this.nothing(error)) : [];
      if (!this.isIn(room)) return;
      room.entered = true;
      this.entered(room, [...before, ...page], answer.usersCount);
    } catch (error) {
      // What comes is held on, behind what is still to be read.
      this.notEntered(room, error as FanfareError);
      return;
    }
    room.release();
  }

  private async exit(roomId: string): Promise<void> {
    try {
      await this.connection.ask("leave-room", { roomId });
      this.left.delete(roomId);
    } catch (error) {
      if ((error as FanfareError).code !== "OFFLINE") throw error; // it is left when the connection is back
    }
  }

  private entered(room: Room, page: Message[], usersCount?: number): void {
    const { last } = room;
    const messages = page.filter((message) => !last || !message.offset || sequence(message.offset) > sequence(last));
    room.last = messages.at(-1)?.offset ?? last;
    this.tell("joined", { roomId: room.id, usersCount, messages });
    for (const message of messages) this.settle(message);
  }

  private told(message: Message): void {
    this.tell("message", message);
    this.settle(message);
  }

  private notEntered(room: Room, error: FanfareError): void {
    if (error.code === "OFFLINE" || !this.isIn(room)) return; // it is entered when the connection is back
    if (error.passes) {
      const again = () => this.isIn(room) && !room.entered && this.status.state === "connected" && void this.enter(room);
      setTimeout(again, pause(error));
      return;
    }
    this.rooms.delete(room.id);
    this.tell("refused", room.id, error);
  }

  private isIn(room: Room): boolean {
    return this.rooms.get(room.id) === room;
  }

  private async between(roomId: string, after: string, until: string): Promise<Message[]> {
    const found: Message[] = [];
    for (let more = true; more;) {
      const page = await this.connection.ask("getMessages", { roomId, after, limit: LONGEST_PAGE });
      found.push(...page.messages.filter((message) => sequence(message.offset!) < sequence(until)));
      after = page.messages.at(-1)?.offset ?? until;
      more = page.hasMore && sequence(after) < sequence(until);
    }
    return found;
  }

  /** Who may be in a room and not read its history has what comes. */
  private nothing(error: FanfareError): Message[] {
    if (error.passes) throw error;
    this.tell("error", error);
    return [];
  }

  // ---- the outbox: one after the other, so that the order is that of writing ----

  private async flush(): Promise<void> {
    if (this.sending) return;
    this.sending = true;
    for (let item = this.outbox.next(); item && this.maySend(); item = this.outbox.next()) {
      if (!(await this.transmit(item))) break;
    }
    this.sending = false;
    for (const item of this.outbox.items) if (item.state === "sending") this.becomes(item, "waiting");
  }

  private maySend(): boolean {
    return this.reachable() && !this.closed && Date.now() >= this.pausedUntil;
  }

  /** Whether the next one may follow. */
  private async transmit(item: Outgoing): Promise<boolean> {
    this.becomes(item, "sending");
    try {
      await this.delivered(item, (await this.stored(item)) ?? (await this.put(item)));
      return true;
    } catch (error) {
      const failure = error as FanfareError;
      if (!this.outbox.items.includes(item)) return true; // the room has told it meanwhile
      if (failure.passes) this.later(item, failure);
      else this.becomes(item, "failed", failure);
      return !failure.passes;
    }
  }

  /** The message in its room, if it was tried so long ago that the server would not know that it has it. */
  private async stored({ roomId, clientId, createdAt, triedAt }: Outgoing): Promise<Message | undefined> {
    if (!triedAt) return undefined;
    // A guest without a token is somebody else on every connection, and a `clientId` is known for one user.
    const isGuest = !(await this.token().catch(() => ""));
    if (!isGuest && Date.now() - triedAt < KNOWN_MS) return undefined;
    let before: string | undefined;
    for (let pages = 0; pages < MOST_PAGES; pages += 1) {
      const { messages, hasMore } = await this.messages({ roomId, before, limit: LONGEST_PAGE });
      const found = messages.find((message) => message.clientId === clientId);
      const oldest = messages[0];
      if (found || !oldest || !hasMore || oldest.timestamp < createdAt - CLOCKS_MS) return found;
      before = oldest.offset;
    }
    return undefined;
  }

  private async put(item: Outgoing): Promise<Pick<Message, "id" | "offset" | "timestamp">> {
    if (!item.triedAt) {
      item.triedAt = Date.now();
      await this.outbox.save(item); // before it is sent: the page may end any moment
    }
    const { roomId, content, type, clientId } = item;
    const message = { roomId, content, type, clientId };
    return this.status.state === "fallback" ? this.http.send(message) : this.connection.ask("message", message);
  }

  private async delivered(item: Outgoing, { id, offset, timestamp }: Pick<Message, "id" | "offset" | "timestamp">): Promise<void> {
    if (!this.outbox.items.includes(item)) return;
    await this.outbox.remove(item);
    this.tell("outgoing", item, { id, offset, timestamp });
  }

  /** A message that the room tells needs no acknowledgement. Nobody else knows our `clientId` before. */
  private settle(message: Message): void {
    const item = this.outbox.items.find(({ clientId }) => clientId === message.clientId);
    if (item) void this.delivered(item, message);
  }

  private later(item: Outgoing, failure: FanfareError): void {
    this.becomes(item, "waiting", failure.code === "OFFLINE" ? undefined : failure);
    if (failure.code === "RATE_LIMITED") {
      this.pausedUntil = Date.now() + pause(failure);
      this.tell("limited", this.pausedUntil);
    }
    clearTimeout(this.resume);
    this.resume = setTimeout(() => void this.flush(), pause(failure));
  }

  private becomes(item: Outgoing, state: Outgoing["state"], error?: FanfareError): void {
    item.state = state;
    item.error = error && { code: error.code, message: error.message, details: error.details, retryAfter: error.retryAfter };
    if (state === "failed") void this.outbox.save(item);
    this.tell("outgoing", item);
  }

  // ---- notifications ----

  private async subscribe(): Promise<void> {
    clearTimeout(this.subscribing);
    try {
      const { unread } = await this.connection.askNotifications("subscribe", {});
      this.tell("unread", unread);
    } catch (error) {
      const failure = error as FanfareError;
      // It is done again with the next connection; and a server that has none is none that fails.
      if (this.closed || ["NO_HANDLER", "OFFLINE"].includes(failure.code)) return;
      if (failure.passes) this.subscribing = setTimeout(() => void this.subscribe(), pause(failure));
      else this.tell("error", failure);
    }
  }

  private notify(notification: Notification): void {
    if (this.notified.has(notification.id)) return;
    this.notified.add(notification.id);
    this.tell("notification", notification);
  }

  // ---- over HTTP ----

  private startPolling(): void {
    if (this.poll || this.closed) return;
    this.poll = setTimeout(() => void this.pollOnce(), 0);
  }

  private stopPolling(): void {
    clearTimeout(this.poll);
    this.poll = undefined;
    this.polls = 0;
  }

  private async pollOnce(): Promise<void> {
    const mine = this.poll;
    let wait = Math.max(POLL_MS, this.rooms.size * 1000);
    try {
      for (const room of this.rooms.values()) await this.fetchRoom(room);
      if (this.polls % NOTIFICATIONS_EVERY === 0) await this.fetchNotifications();
      this.polls += 1;
      if (this.poll === mine) this.works();
    } catch (error) {
      const failure = error as FanfareError;
      wait = Math.max(wait, (failure.retryAfter ?? 0) * 1000);
      if (this.poll === mine && failure.code !== "RATE_LIMITED") this.fails(failure);
    }
    if (this.poll === mine && !this.closed) this.poll = setTimeout(() => void this.pollOnce(), wait);
  }

  private works(): void {
    if (this.status.state === "fallback") return;
    this.status = { state: "fallback" };
    this.tell("status", this.status);
    void this.flush();
  }

  private fails(error: FanfareError): void {
    if (this.status.state !== "fallback") return;
    this.status = { state: "waiting", error };
    this.tell("status", this.status);
  }

  private async fetchRoom(room: Room): Promise<void> {
    const { id: roomId, history, last } = room;
    try {
      const page = await this.http.messages(last ? { roomId, after: last, limit: LONGEST_PAGE } : { roomId, limit: history });
      if (this.isIn(room)) this.entered(room, page.messages);
    } catch (error) {
      const failure = error as FanfareError;
      if (failure.passes || failure.code === "UNAUTHORIZED") throw failure;
      this.notEntered(room, failure);
    }
  }

  private async fetchNotifications(): Promise<void> {
    try {
      const { notifications, unread } = await this.http.notifications();
      for (const notification of notifications ?? []) this.notify(notification);
      this.tell("unread", unread);
    } catch (error) {
      // A server that has none is none that fails.
      if ((error as FanfareError).code !== "NOT_FOUND") throw error;
    }
  }
}

/** Milliseconds until the same may work. */
function pause({ retryAfter }: FanfareError): number {
  return (retryAfter ?? 0) * 1000 || RETRY_MS;
}

/** `randomUUID` exists on secure origins only, and a page may be opened by its address in the local network. */
function newId(): string {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
