import { type Message, type OnlineUser, type Outgoing, sequence } from "fanfare-client";

/** A line of a conversation: a message, one that is on its way out, or a word of the page itself. */
export interface Line {
  key: string;
  message?: Partial<Message> & Pick<Message, "content" | "type" | "timestamp" | "username">;
  outgoing?: Outgoing;
  system?: string;
  /** Where it stands: its place in the log, or behind what was there when it came. */
  place: number;
}

/** Messages on their way out stand behind all that the log has. */
const LAST = Number.MAX_SAFE_INTEGER;

/** What the page knows of a room. */
export class Conversation {
  readonly id: string;
  /** Of a direct conversation: everybody in it, ourselves too. */
  readonly participants: string[];
  lines: Line[] = [];
  readonly members = new Map<string, OnlineUser>();
  readonly typing = new Map<string, { username: string; timer: ReturnType<typeof setTimeout> }>();
  /** User → id of the last message read. */
  readonly reads = new Map<string, string>();
  /** Announced users whose names are not known yet, and where in the log that was. */
  readonly expected = new Map<string, number>();
  count = 0;
  unread = 0;
  hasEarlier = false;
  loading = false;
  entered = false;
  draft = "";
  /** The place in the log that was read. */
  read: number;

  constructor(id: string, participants: string[] = [], read = 0) {
    this.id = id;
    this.participants = participants;
    this.read = read;
  }

  /** Whether it is new. */
  take(message: Message): boolean {
    const known = this.lines.find((line) => line.message?.id === message.id || (line.outgoing && line.outgoing.clientId === message.clientId));
    const place = message.offset ? sequence(message.offset) : this.now();
    if (known) Object.assign(known, { message, outgoing: undefined, place });
    else this.lines.push({ key: message.clientId ?? message.id, message, place });
    this.sort();
    return !known;
  }

  /** A message on its way out, or what has become of it. */
  outgoing(item: Outgoing, username: string, gone?: Partial<Message>): void {
    let line = this.lines.find((line) => line.key === item.clientId);
    if (gone) {
      if (!line?.outgoing) return; // it came as an event already
      line.outgoing = undefined;
      line.message = { ...line.message!, ...gone };
      line.place = gone.offset ? sequence(gone.offset) : this.now();
    } else if (line) {
      if (line.outgoing) line.outgoing = item;
    } else {
      const { content, type, createdAt: timestamp, clientId, roomId } = item;
      line = { key: clientId, message: { content, type, timestamp, clientId, roomId, username }, outgoing: item, place: LAST };
      this.lines.push(line);
    }
    this.sort();
  }

  drop(clientId: string): void {
    this.lines = this.lines.filter((line) => line.key !== clientId);
  }

  say(system: string, place = this.now()): void {
    this.lines.push({ key: crypto.getRandomValues(new Uint32Array(2)).join("-"), system, place });
    this.sort();
  }

  /** Behind the last message. */
  now(): number {
    return this.end() + 0.5;
  }

  /** The place of the last message in the log. */
  end(): number {
    return this.last() ? sequence(this.last()!.offset!) : 0;
  }

  first(): Partial<Message> | undefined {
    return this.lines.find((line) => line.message?.offset)?.message;
  }

  last(): Partial<Message> | undefined {
    return this.lines.findLast((line) => line.message?.offset)?.message;
  }

  private sort(): void {
    this.lines.sort((a, b) => a.place - b.place);
  }
}
