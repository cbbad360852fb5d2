import type { Failure, MessageType } from "./types.js";

/** A message on its way out. Gone from the outbox once the server has it. */
export interface Outgoing {
  /** By which a message is known again: for two minutes by the server, later by us in the room's history. */
  clientId: string;
  owner: string;
  roomId: string;
  content: string;
  type: MessageType;
  createdAt: number;
  /** When it was first on its way, in milliseconds since 1970: from then on the server may have it. */
  triedAt?: number;
  state: "sending" | "waiting" | "failed";
  error?: Failure;
}

const STORE = "outgoing";

/**
 * Messages that the server has neither acknowledged nor told, in the order they were written, in IndexedDB, so that they outlive
 * the page. Where a browser has none to give (private windows), they live as long as the page.
 */
export class Outbox {
  readonly items: Outgoing[] = [];
  private readonly owner: string;
  private readonly database: Promise<IDBDatabase | null>;

  constructor(name: string, owner: string) {
    this.owner = owner;
    this.database = open(name);
  }

  /** Brings back what an earlier page of this owner left. */
  async load(): Promise<void> {
    const database = await this.database;
    if (!database) return;
    const all = await done<Outgoing[]>(database.transaction(STORE).objectStore(STORE).getAll()).catch(() => []);
    for (const item of all) {
      if (item.owner !== this.owner || this.items.some((known) => known.clientId === item.clientId)) continue;
      this.items.push({ ...item, state: item.state === "failed" ? "failed" : "waiting" });
    }
    this.items.sort((a, b) => a.createdAt - b.createdAt);
  }

  /** Adds a message, behind all that are there. */
  add(message: Pick<Outgoing, "roomId" | "content" | "type" | "clientId">): Outgoing {
    const last = this.items.at(-1)?.createdAt ?? 0;
    const createdAt = Math.max(Date.now(), last + 1);
    const item: Outgoing = { ...message, owner: this.owner, createdAt, state: "waiting" };
    this.items.push(item);
    void this.save(item);
    return item;
  }

  /** Keeps an item as it is now. */
  async save(item: Outgoing): Promise<void> {
    const database = await this.database;
    if (database) await done(database.transaction(STORE, "readwrite").objectStore(STORE).put({ ...item })).catch(() => undefined);
  }

  /** Forgets an item. */
  async remove(item: Outgoing): Promise<void> {
    const at = this.items.indexOf(item);
    if (at >= 0) this.items.splice(at, 1);
    const database = await this.database;
    if (database) await done(database.transaction(STORE, "readwrite").objectStore(STORE).delete(item.clientId)).catch(() => undefined);
  }

  /** What is to be sent next. */
  next(): Outgoing | undefined {
    return this.items.find((item) => item.state !== "failed");
  }

  async close(): Promise<void> {
    (await this.database)?.close();
  }
}

function open(name: string): Promise<IDBDatabase | null> {
  if (typeof indexedDB === "undefined") return Promise.resolve(null);
  const request = indexedDB.open(name, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "clientId" });
  return done(request).catch(() => null);
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
