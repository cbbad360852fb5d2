import { Component, createRef } from "preact";
import type { Conversation, Line } from "./conversation.js";
import { Avatar } from "./parts.js";
import type { Store } from "./store.js";
import { clock, explain, list } from "./words.js";

const GROUP_MS = 300_000; // messages of one author this close share a heading
const NEAR_PX = 80;
const EARLIER_PX = 120;

interface Props {
  store: Store;
  room: Conversation;
}

interface Snapshot {
  atEnd: boolean;
  fromEnd: number;
  first?: string;
}

/** The messages of a room. What is before one's eyes stays there, whatever is added above or below. */
export class Log extends Component<Props, { away: boolean }> {
  state = { away: false };
  private readonly scroll = createRef<HTMLDivElement>();

  componentDidMount(): void {
    this.toEnd();
  }

  getSnapshotBeforeUpdate(): Snapshot {
    const { scrollTop, scrollHeight, clientHeight } = this.scroll.current!;
    return { atEnd: this.atEnd(), fromEnd: scrollHeight - scrollTop - clientHeight, first: this.scroll.current!.querySelector(".message")?.id };
  }

  componentDidUpdate(_props: Props, _state: unknown, before: Snapshot): void {
    const box = this.scroll.current!;
    const last = this.props.room.lines.at(-1);
    if (before.atEnd || (last?.outgoing?.state === "sending" && last.outgoing.createdAt > Date.now() - 200)) this.toEnd();
    else if (box.querySelector(".message")?.id !== before.first) box.scrollTop = box.scrollHeight - box.clientHeight - before.fromEnd;
  }

  render({ store, room }: Props) {
    const seen = readers(store, room);
    return (
      <>
        <div id="scroll" class="scroll" ref={this.scroll} tabIndex={0} role="region" aria-label="Messages, scrollable" onScroll={() => this.scrolled()}>
          <div class="earlier">
            {room.hasEarlier && <button type="button" id="earlier" class="plain" disabled={room.loading} onClick={() => void store.loadEarlier(room)}>
              {room.loading ? "Loading…" : "Load earlier"}
            </button>}
          </div>
          {!room.lines.some((line) => line.message) && (
            <div id="empty" class="empty">
              <p>{room.entered ? "Nothing was said here yet." : "…"}</p>
              {room.entered && !room.participants.length && (
                <p><a href={`/#${new URLSearchParams({ room: room.id })}`} target="_blank" rel="noopener">Open a second tab</a> and talk to yourself.</p>
              )}
            </div>
          )}
          <div id="log" role="log" aria-live={store.quiet ? "off" : "polite"} aria-label="Messages">
            {room.lines.map((line, at) => <Entry key={line.key} store={store} line={line} above={room.lines[at - 1]} seenBy={seen.get(line.message?.id ?? "")} />)}
          </div>
        </div>
        {this.state.away && <button type="button" id="newest" class="newest" onClick={() => this.toEnd()}>Newest ↓</button>}
      </>
    );
  }

  private atEnd(): boolean {
    const { scrollTop, scrollHeight, clientHeight } = this.scroll.current!;
    return scrollHeight - scrollTop - clientHeight < NEAR_PX;
  }

  private toEnd(): void {
    const box = this.scroll.current!;
    box.scrollTop = box.scrollHeight;
  }

  private scrolled(): void {
    const { store, room } = this.props;
    const away = !this.atEnd();
    if (away !== this.state.away) this.setState({ away });
    const box = this.scroll.current!;
    if (box.scrollTop < EARLIER_PX && box.scrollHeight > box.clientHeight) void store.loadEarlier(room);
  }
}

/** Message → the names of those who have read so far and said nothing since. */
function readers(store: Store, room: Conversation): Map<string, string[]> {
  const seen = new Map<string, string[]>();
  for (const [userId, messageId] of room.reads) {
    const at = room.lines.findIndex((line) => line.message?.id === messageId);
    const spoke = room.lines.findLastIndex((line) => line.message?.userId === userId);
    if (at < 0 || store.isMe(userId) || spoke >= at) continue;
    seen.set(messageId, [...(seen.get(messageId) ?? []), store.nameOf(userId)]);
  }
  return seen;
}

function Entry({ store, line, above, seenBy }: { store: Store; line: Line; above?: Line; seenBy?: string[] }) {
  const { message, outgoing } = line;
  if (!message) return <div class="system quiet">{line.system}</div>;
  const mine = outgoing !== undefined || store.wrote(message);
  const before = above?.message;
  const follows = before !== undefined && before.username === message.username
    && (above?.outgoing !== undefined || store.wrote(before)) === mine && message.timestamp - before.timestamp < GROUP_MS;
  const classes = ["message", mine && "mine", follows && "follows", outgoing?.state].filter(Boolean).join(" ");
  const when = new Date(message.timestamp);
  return (
    <div class={classes} id={`m-${line.key}`}>
      <Avatar name={message.username} online={mine ? undefined : store.isOnline(message.userId)} />
      <div class="body">
        <p class="by"><b>{mine ? "You" : message.username}</b><time dateTime={when.toISOString()} title={when.toLocaleString()}>{clock(message.timestamp)}</time></p>
        <p class="text">{message.type !== "text" && <span class="quiet">{message.type}: </span>}{message.content}</p>
        <State store={store} line={line} mine={mine} />
        {seenBy && <p class="seen quiet">Seen by {list(seenBy)}</p>}
      </div>
    </div>
  );
}

/** Of one's own message: on its way, delivered, or failed. */
function State({ store, line, mine }: { store: Store; line: Line; mine: boolean }) {
  const { outgoing } = line;
  if (!mine) return null;
  if (!outgoing) return <span class="delivered" title="Delivered"><span aria-hidden="true">✓</span><span class="unseen">Delivered</span></span>;
  if (outgoing.state === "sending") return <p class="state quiet">Sending…</p>;
  if (outgoing.state === "waiting") return <p class="state quiet">{store.status.state === "waiting" ? "Waiting for the connection…" : "Waiting to be sent…"}</p>;
  return (
    <p class="state">
      {outgoing.error ? explain(outgoing.error) : "Not sent."}{" "}
      <button type="button" class="plain" onClick={() => store.retry(outgoing)}>Try again</button>{" "}
      <button type="button" class="plain" onClick={() => store.discard(outgoing)}>Discard</button>
    </p>
  );
}
