import type { Message } from "./types.js";

/** Where a room stands: what has been told of it, so that nothing is told twice or out of order. */
export class Room {
  readonly id: string;
  readonly history: number;
  /** The server's session has us in it. */
  entered = false;
  /** The last place in the log that was told. */
  last?: string;
  /** Messages that came while older ones are being fetched. */
  private held: Message[] | null = null;
  private readonly tell: (message: Message) => void;

  constructor(id: string, history: number, tell: (message: Message) => void) {
    this.id = id;
    this.history = history;
    this.tell = tell;
  }

  hold(): void {
    this.held ??= [];
  }

  release(): void {
    const held = this.held ?? [];
    this.held = null;
    for (const message of held) this.take(message);
  }

  take(message: Message): void {
    if (this.held) {
      this.held.push(message);
      return;
    }
    if (message.offset) {
      if (this.last && sequence(message.offset) <= sequence(this.last)) return;
      this.last = message.offset;
    }
    this.tell(message);
  }
}

/** An offset is "<partition>-<sequence>", and a room stays in one partition. */
export function sequence(offset: string): number {
  return Number(offset.slice(offset.lastIndexOf("-") + 1));
}
