// Everything the page shows, and what its user can do with it.

import { type Conversation as Answer, Fanfare, type FanfareError, type Message, type Notification, type Outgoing, type Status } from "fanfare-client";
import { Conversation } from "./conversation.js";
import { type Identity, claims, mint, remember, server } from "./identity.js";
import { explain, shortened } from "./words.js";

const HISTORY = 50;
const READ_AFTER_MS = 1_000; // read marks are events too: at most one a second and room
const MEMBERS_EVERY_MS = 1_000;
const BACK_MS = 6_000;
const NOTICE_MS = 12_000;
const TYPING_MS = 6_500; // the server ends it after 5 s; this only covers a lost last word
const MOST_SENT = 200;

export interface Notice {
  id: number;
  text: string;
}

export class Store {
  readonly rooms = new Map<string, Conversation>();
  readonly names = new Map<string, string>();
  readonly client: Fanfare;
  identity: Identity;
  active: Conversation | null = null;
  status: Status = { state: "connecting" };
  /** Just back after a lost connection: what the page says about it. */
  back = "";
  notices: Notice[] = [];
  notifications: (Notification & { seen?: boolean })[] = [];
  unreadNotifications = 0;
  /** Nothing more can be sent until then. */
  limitedUntil = 0;
  /** A limit is close: how much is left, until when. */
  nearLimit: { remaining: number; limit: number; until: number } | null = null;
  /** Of the last changes: nothing is to be read out. */
  quiet = true;
  private readonly ids: Set<string>;
  private readonly sent: Set<string>;
  private readonly changed: () => void;
  private wasUp = false;
  private renewed = false;
  private nextNotice = 0;
  private asking = new Set<string>();
  private marking = new Set<string>();

  constructor(identity: Identity, changed: () => void) {
    this.identity = identity;
    this.changed = changed;
    const { sub } = claims(identity.token);
    this.ids = new Set(sub ? [sub] : this.recall<string[]>("ids", []));
    this.sent = new Set(this.recall<string[]>("sent", []));
    this.client = new Fanfare({
      url: server,
      token: () => this.identity.token,
      username: identity.username,
      owner: sub ?? `guest ${identity.username}`,
    });
    this.listen();
    for (const [id, participants, read] of this.recall<[string, string[], number][]>("rooms", [])) this.add(id, participants, read);
  }

  // ---- who I am ----

  get username(): string {
    const claimed = claims(this.identity.token);
    return claimed.username ?? claimed.sub ?? this.identity.username;
  }

  get role(): string {
    return this.identity.token ? (claims(this.identity.token).role ?? "user") : "guest";
  }

  isMe(userId?: string): boolean {
    return userId !== undefined && this.ids.has(userId);
  }

  wrote(message: { userId?: string; clientId?: string }): boolean {
    return this.isMe(message.userId) || (message.clientId !== undefined && this.sent.has(message.clientId));
  }

  isOnline(userId?: string): boolean {
    return userId !== undefined && [...this.rooms.values()].some((room) => room.members.has(userId));
  }

  nameOf(userId: string): string {
    return this.names.get(userId) ?? userId;
  }

  // ---- rooms ----

  open(roomId: string, participants: string[] = []): Conversation {
    const room = this.rooms.get(roomId) ?? this.add(roomId, participants);
    this.show(room);
    return room;
  }

  show(room: Conversation | null): void {
    if (this.active) this.client.typing(this.active.id, false);
    this.active = room;
    history.replaceState(null, "", room ? `#${new URLSearchParams({ room: room.id })}` : "#");
    if (room) this.sawAll(room);
    this.redraw(true);
  }

  async leave(room: Conversation): Promise<void> {
    this.forget(room);
    await this.client.leave(room.id).catch((error) => this.failed(error));
  }

  /** Opens the conversation with one other user. */
  async talkTo(userId: string): Promise<void> {
    try {
      const { roomId, participants, created } = await this.client.conversation([userId]);
      this.open(roomId, participants);
      if (created) void this.invite(userId, roomId, participants);
    } catch (error) {
      this.failed(error as FanfareError);
    }
  }

  title(room: Conversation): string {
    const others = room.participants.filter((userId) => !this.isMe(userId));
    return room.participants.length ? others.map((userId) => this.nameOf(userId)).join(", ") || "Yourself" : room.id;
  }

  async loadEarlier(room: Conversation): Promise<void> {
    const before = room.first()?.offset;
    if (!before || room.loading || !room.hasEarlier) return;
    room.loading = true;
    this.redraw(true);
    try {
      const page = await this.client.messages({ roomId: room.id, before, limit: HISTORY });
      for (const message of page.messages) this.takeMessage(room, message);
      room.hasEarlier = page.hasMore;
    } catch (error) {
      this.failed(error as FanfareError);
    }
    room.loading = false;
    this.redraw(true);
  }

  // ---- messages ----

  send(room: Conversation, content: string): void {
    const item = this.client.send(room.id, content);
    this.sent.add(item.clientId);
    this.keep("sent", [...this.sent].slice(-MOST_SENT));
    room.outgoing(item, this.username);
    this.redraw();
  }

  retry(item: Outgoing): void {
    this.client.retry(item);
  }

  discard(item: Outgoing): void {
    void this.client.discard(item);
    this.rooms.get(item.roomId)?.drop(item.clientId);
    this.redraw();
  }

  /** The user has all of the room before his eyes. */
  sawAll(room: Conversation): void {
    if (document.hidden || room !== this.active) return;
    if (room.unread) {
      room.unread = 0;
      this.redraw();
    }
    if (room.end() > room.read) this.markRead(room);
  }

  // ---- notifications and notices ----

  openNotification(notification: Notification): void {
    this.markNotification(notification);
    const { roomId, participants } = (notification.data ?? {}) as { roomId?: string; participants?: string[] };
    if (roomId) this.open(roomId, participants);
  }

  markNotification(notification: Notification & { seen?: boolean }): void {
    if (notification.seen) return;
    notification.seen = true;
    this.redraw();
    this.client.markNotificationRead(notification.id).catch((error) => this.failed(error));
  }

  notice(text: string): void {
    if (this.notices.some((notice) => notice.text === text)) return;
    const id = this.nextNotice++;
    this.notices = [...this.notices, { id, text }];
    setTimeout(() => this.dismiss(id), NOTICE_MS);
    this.redraw();
  }

  dismiss(id: number): void {
    this.notices = this.notices.filter((notice) => notice.id !== id);
    this.redraw();
  }

  // ---- what the client tells ----

  private listen(): void {
    const { client } = this;
    client.on("status", (status) => void this.takeStatus(status));
    client.on("joined", ({ roomId, usersCount, messages }) => {
      const room = this.rooms.get(roomId);
      if (!room) return;
      const first = !room.entered;
      room.entered = true;
      room.count = usersCount ?? room.count;
      if (first) room.hasEarlier = messages.length >= HISTORY;
      for (const message of messages) this.takeMessage(room, message);
      if (first || messages.length) this.redraw(first);
      void this.refreshMembers(room);
      this.sawAll(room);
    });
    client.on("refused", (roomId, error) => {
      this.notice(`Joining “${shortened(roomId)}”: ${explain(error)}`);
      const room = this.rooms.get(roomId);
      if (room) this.forget(room);
    });
    client.on("message", (message) => {
      const room = this.rooms.get(message.roomId);
      if (!room) return;
      this.takeMessage(room, message);
      this.setTyping(room, message.userId, message.username, false);
      this.sawAll(room);
      this.redraw();
    });
    client.on("outgoing", (item, gone) => {
      const room = this.rooms.get(item.roomId) ?? this.add(item.roomId, []);
      this.sent.add(item.clientId);
      room.outgoing(item, this.username, gone);
      this.redraw();
    });
    client.on("typing", ({ roomId, userId, username, isTyping }) => {
      const room = this.rooms.get(roomId);
      if (room && !this.isMe(userId)) this.setTyping(room, userId, username, isTyping);
    });
    client.on("presence", ({ roomId, usersCount, userId, action }) => {
      const room = this.rooms.get(roomId);
      if (!room) return;
      room.count = usersCount;
      if (userId && action === "left") room.members.delete(userId);
      if (userId && action === "joined" && !room.members.has(userId)) {
        room.expected.set(userId, room.now());
        void this.refreshMembers(room);
      }
      this.redraw();
    });
    client.on("left", ({ roomId, userId, username }) => {
      const room = this.rooms.get(roomId);
      if (!room) return;
      room.members.delete(userId);
      this.setTyping(room, userId, username, false);
      if (!this.isMe(userId)) room.say(`${username} left`);
      this.redraw();
    });
    client.on("read", ({ roomId, userId, messageId }) => {
      this.rooms.get(roomId)?.reads.set(userId, messageId);
      this.redraw();
    });
    client.on("notification", (notification) => this.takeNotification(notification));
    client.on("unread", (count) => {
      this.unreadNotifications = count;
      this.redraw();
    });
    client.on("warning", ({ remaining, limit, resetIn }) => {
      this.nearLimit = { remaining, limit, until: Date.now() + resetIn * 1000 };
      this.redraw();
    });
    client.on("limited", (until) => this.limited(until));
    client.on("error", (error) => this.failed(error));
  }

  private async takeStatus(status: Status): Promise<void> {
    if (status.state === "down" && status.error?.code === "UNAUTHORIZED" && this.identity.minted && !this.renewed) {
      // A development server knows its tokens as long as it runs.
      this.renewed = true;
      const token = await mint(this.identity.username);
      if (token) {
        this.identity = { ...this.identity, token };
        remember(this.identity);
        void this.client.connect();
        return;
      }
    }
    if (status.state === "connected") {
      this.renewed = false;
      if (this.wasUp && this.status.state !== "connected") this.isBack(status.recovered ?? false);
      this.wasUp = true;
    } else {
      this.back = "";
      for (const room of this.rooms.values()) for (const [userId, { username }] of room.typing) this.setTyping(room, userId, username, false);
    }
    if (status.state === "down" && status.error && status.error.code !== "OFFLINE") {
      this.notice(`The server refused: ${status.error.message} (${status.error.code})`);
    }
    this.status = status;
    this.redraw();
  }

  private isBack(recovered: boolean): void {
    this.back = recovered ? "Back, nothing missed" : "Back, caught up";
    setTimeout(() => {
      this.back = "";
      this.redraw();
    }, BACK_MS);
  }

  private takeMessage(room: Conversation, message: Message): void {
    this.names.set(message.userId, message.username);
    if (message.clientId && this.sent.has(message.clientId)) this.know(message.userId);
    const isNew = room.take(message);
    const behind = message.offset !== undefined && room.last()?.id === message.id;
    if (isNew && behind && !this.wrote(message) && room.end() > room.read && !(room === this.active && !document.hidden)) room.unread += 1;
  }

  private takeNotification(notification: Notification): void {
    this.notifications = [notification, ...this.notifications].slice(0, 100);
    this.unreadNotifications += 1;
    const { roomId, participants, from } = (notification.data ?? {}) as { roomId?: string; participants?: string[]; from?: { userId: string; username: string } };
    if (from) this.names.set(from.userId, from.username);
    if (roomId && !this.rooms.has(roomId)) this.add(roomId, participants);
    this.redraw();
  }

  private setTyping(room: Conversation, userId: string, username: string, isTyping: boolean): void {
    clearTimeout(room.typing.get(userId)?.timer);
    const known = room.typing.delete(userId);
    if (isTyping) {
      const timer = setTimeout(() => this.setTyping(room, userId, username, false), TYPING_MS);
      room.typing.set(userId, { username, timer });
    }
    if (known || isTyping) this.redraw();
  }

  // ---- rooms, behind the scenes ----

  private add(id: string, participants: string[] = [], read = 0): Conversation {
    const room = new Conversation(id, participants, read);
    this.rooms.set(id, room);
    this.keepRooms();
    this.client.join(id, HISTORY);
    return room;
  }

  private forget(room: Conversation): void {
    this.rooms.delete(room.id);
    this.keepRooms();
    if (this.active === room) this.show([...this.rooms.values()].at(-1) ?? null);
    this.redraw();
  }

  /** Says on our behalf that there is a conversation; a development server does so by a notification. */
  private async invite(userId: string, roomId: string, participants: string[]): Promise<void> {
    const headers = { "content-type": "application/json", authorization: `Bearer ${this.identity.token}` };
    const body = JSON.stringify({ userId, roomId, participants } satisfies Partial<Answer> & { userId: string });
    await fetch(`${server}/demo/invite`, { method: "POST", headers, body }).catch(() => undefined);
  }

  // At most one question a second and room.
  private async refreshMembers(room: Conversation): Promise<void> {
    if (this.asking.has(room.id)) return;
    this.asking.add(room.id);
    do {
      const expected = [...room.expected];
      try {
        const users = await this.client.online(room.id);
        if (this.status.state === "connected") this.takeMembers(room, users, expected);
      } catch (error) {
        this.failed(error as FanfareError);
        if ((error as FanfareError).code === "OFFLINE") break;
      }
      await new Promise((wake) => setTimeout(wake, MEMBERS_EVERY_MS));
    } while (room.expected.size && this.rooms.get(room.id) === room);
    this.asking.delete(room.id);
  }

  private takeMembers(room: Conversation, users: Awaited<ReturnType<Fanfare["online"]>>, expected: [string, number][]): void {
    for (const user of users) this.names.set(user.userId, user.username);
    const namesakes = users.filter((user) => user.username === this.username);
    if (!this.identity.token && namesakes.length === 1) this.know(namesakes[0]!.userId);
    room.members.clear();
    for (const user of users) room.members.set(user.userId, user);
    room.count = users.length;
    for (const [userId, place] of expected) {
      const member = room.members.get(userId);
      if (member && !this.isMe(userId)) room.say(`${member.username} joined`, place);
      room.expected.delete(userId);
    }
    this.redraw();
  }

  private markRead(room: Conversation): void {
    if (this.marking.has(room.id) || !["connected", "fallback"].includes(this.status.state)) return;
    this.marking.add(room.id);
    setTimeout(() => {
      this.marking.delete(room.id);
      const last = room.last();
      if (!last?.id || room !== this.active || document.hidden) return;
      room.read = room.end();
      this.keepRooms();
      if (this.wrote(last)) return;
      this.client.markRead(room.id, last.id).catch((error: FanfareError) => error.passes || this.failed(error));
    }, READ_AFTER_MS);
  }

  // ---- small things ----

  private failed(error: FanfareError): void {
    if (error.code === "RATE_LIMITED") this.limited(Date.now() + (error.retryAfter ?? 1) * 1000);
    else if (error.code !== "OFFLINE") this.notice(explain(error));
  }

  private limited(until: number): void {
    this.limitedUntil = Math.max(until, this.limitedUntil);
    this.nearLimit = null;
    this.redraw();
  }

  private know(userId: string): void {
    if (this.ids.has(userId)) return;
    this.ids.add(userId);
    this.keep("ids", [...this.ids].slice(-20));
  }

  private redraw(quiet = false): void {
    this.quiet = quiet;
    this.changed();
  }

  private keepRooms(): void {
    this.keep("rooms", [...this.rooms.values()].map((room) => [room.id, room.participants, room.read]));
  }

  /** Kept for each user, and for guests as long as the tab lives. */
  private storage(): Storage {
    return this.identity.token ? localStorage : sessionStorage;
  }

  private key(what: string): string {
    return `fanfare:${claims(this.identity.token).sub ?? this.identity.username}:${what}`;
  }

  private recall<T>(what: string, otherwise: T): T {
    try {
      return JSON.parse(this.storage().getItem(this.key(what)) ?? "null") ?? otherwise;
    } catch {
      return otherwise;
    }
  }

  private keep(what: string, value: unknown): void {
    try {
      this.storage().setItem(this.key(what), JSON.stringify(value));
    } catch { /* a private window forgets */ }
  }
}
