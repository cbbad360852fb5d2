import { useEffect, useState } from "preact/hooks";
import { Composer } from "./composer.js";
import { server } from "./identity.js";
import { Log } from "./log.js";
import { Bell } from "./notifications.js";
import { Avatar, Countdown, Logo } from "./parts.js";
import type { Store } from "./store.js";
import { duration, list, shortened } from "./words.js";

export function Chat({ store, signOut }: { store: Store; signOut: () => void }) {
  const { active } = store;
  return (
    <>
      <a class="skip" href="#text" onClick={(event) => { event.preventDefault(); document.getElementById("text")?.focus(); }}>Skip to the message field</a>
      <header class="top">
        <h1><Logo /><span class="brand">Fanfare</span></h1>
        <Link store={store} />
        <Stats />
        <Bell store={store} />
      </header>
      <div class="frame">
        <Side store={store} signOut={signOut} />
        <main aria-labelledby="room-title">
          <div class="head">
            <h2 id="room-title">{active ? store.title(active) : "No room"}</h2>
            <span id="room-count" class="quiet">{active?.count ? `${active.count} ${active.count === 1 ? "person" : "people"}` : ""}</span>
            {active && <button type="button" id="leave" class="plain" onClick={() => void store.leave(active)}>Leave</button>}
          </div>
          {active ? <Log key={active.id} store={store} room={active} /> : <p class="empty">You are in no room. Join one.</p>}
          {active && <Typing names={[...active.typing.values()].map(({ username }) => username)} />}
          <Limit store={store} />
          {active && <Composer key={`composer ${active.id}`} store={store} room={active} />}
        </main>
        <Members store={store} />
      </div>
      <div id="notices" class="notices" role="alert">
        {store.notices.map(({ id, text }) => (
          <div class="notice" key={id}>
            <span>{text}</span>
            <button type="button" class="plain" onClick={() => store.dismiss(id)}>Dismiss</button>
          </div>
        ))}
      </div>
    </>
  );
}

const LINKS = {
  connecting: "Connecting…",
  connected: "Connected",
  waiting: "Connection lost, reconnecting…",
  fallback: "Sockets are blocked, using HTTP",
  down: "Disconnected",
};

function Link({ store }: { store: Store }) {
  const { state, transport } = store.status;
  return (
    <div class="link" id="link" data-state={state}>
      <span class="dot" aria-hidden="true" />
      <span id="link-text" role="status">{store.back || LINKS[state]}</span>
      <span id="link-detail" class="quiet">{transport ?? ""}</span>
      {state === "down" && <button type="button" id="connect" class="plain" onClick={() => void store.client.connect()}>Connect</button>}
    </div>
  );
}

const STATS_EVERY_MS = 3_000;

interface Counts {
  connections: number;
  users: number;
  rooms: number;
  messages: number;
  uptime: number;
}

/** The counts of a server that tells them to this page. */
function Stats() {
  const [counts, setCounts] = useState<Counts | null>(null);
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    const ask = async () => {
      const answer = document.hidden ? null : await fetch(`${server}/demo/stats`).catch(() => null);
      if (answer?.ok) setCounts(await answer.json());
      if (answer?.status !== 404) timer = setTimeout(ask, STATS_EVERY_MS);
    };
    void ask();
    return () => clearTimeout(timer);
  }, []);
  if (!counts) return null;
  const shown = { connections: counts.connections, users: counts.users, rooms: counts.rooms, messages: counts.messages };
  return (
    <dl class="stats" aria-label="The server's counts">
      {Object.entries(shown).map(([name, count]) => (
        <div key={name}><dt>{name}</dt><dd id={`stat-${name}`}>{count.toLocaleString()}</dd></div>
      ))}
      <div><dt>uptime</dt><dd id="stat-uptime">{duration(counts.uptime)}</dd></div>
    </dl>
  );
}

function Side({ store, signOut }: { store: Store; signOut: () => void }) {
  const all = [...store.rooms.values()];
  const rooms = all.filter((room) => !room.participants.length);
  const direct = all.filter((room) => room.participants.length);
  const [name, setName] = useState("");
  const join = (event: Event) => {
    event.preventDefault();
    if (name.trim()) store.open(name.trim());
    setName("");
  };
  const item = (room: (typeof all)[number]) => {
    const other = room.participants.find((userId) => !store.isMe(userId));
    return (
      <li key={room.id}>
        <button type="button" class={other ? "room direct" : "room"} aria-current={room === store.active ? "true" : undefined} onClick={() => store.show(room)}>
          {other && <span class={store.isOnline(other) ? "presence online" : "presence"} aria-hidden="true" />}
          <span class="name">{store.title(room)}</span>
          {room.unread > 0 && <><span class="badge">{room.unread}</span><span class="unseen"> unread</span></>}
        </button>
      </li>
    );
  };
  return (
    <nav class="side" aria-label="Conversations">
      <div class="rooms">
        <h2 id="rooms-title">Rooms</h2>
        <ul id="rooms" aria-labelledby="rooms-title">{rooms.map(item)}</ul>
        <form id="join" class="row" onSubmit={join}>
          <label class="unseen" for="join-name">Name of the room to join</label>
          <input id="join-name" name="room" placeholder="Join a room" autocomplete="off" spellcheck={false} required value={name}
            onInput={(event) => setName(event.currentTarget.value)} />
          <button type="submit">Join</button>
        </form>
        {direct.length > 0 && <>
          <h2 id="direct-title">Direct</h2>
          <ul id="direct" aria-labelledby="direct-title">{direct.map(item)}</ul>
        </>}
      </div>
      <div id="identity">
        <Avatar name={store.username} />
        <span class="who"><b id="me">{store.username}</b><span id="me-kind" class="quiet">{store.role}</span></span>
        <button type="button" class="plain" onClick={signOut}>Sign out</button>
      </div>
    </nav>
  );
}

function Members({ store }: { store: Store }) {
  const users = [...(store.active?.members.values() ?? [])];
  users.sort((a, b) => Number(store.isMe(b.userId)) - Number(store.isMe(a.userId)) || a.username.localeCompare(b.username));
  return (
    <aside aria-labelledby="members-title">
      <h2 id="members-title">Here now</h2>
      <ul id="members" aria-labelledby="members-title">
        {users.map(({ userId, username, connectedAt }) => (
          <li key={userId} title={`${shortened(userId)}, since ${new Date(connectedAt).toLocaleTimeString()}`}>
            <Avatar name={username} online />
            <span class="name">{username}</span>
            {store.isMe(userId) ? <span class="quiet">you</span> : (
              <button type="button" class="plain" aria-label={`Message ${username}`} onClick={() => void store.talkTo(userId)}>Message</button>
            )}
          </li>
        ))}
      </ul>
    </aside>
  );
}

function Typing({ names }: { names: string[] }) {
  return (
    <p id="typing" class="typing quiet">
      {names.length > 0 && <><span class="name">{names.length > 3 ? `${names.length} people` : list(names)}</span>{names.length > 1 ? " are" : " is"} typing…</>}
    </p>
  );
}

/** A rate limit that was reached, or is close. */
function Limit({ store }: { store: Store }) {
  const { limitedUntil, nearLimit } = store;
  return (
    <div id="limit" role="status">
      {limitedUntil > 0 && (
        <Countdown until={limitedUntil}>
          {(seconds) => <p class="limit reached">Too many messages. Sending goes on in <b aria-hidden="true">{seconds} s</b><span class="unseen">a moment</span>.</p>}
        </Countdown>
      )}
      {nearLimit && (
        <Countdown until={nearLimit.until}>
          {(seconds) => <p class="limit">Close to the limit: {nearLimit.remaining} of {nearLimit.limit} left<span aria-hidden="true">, more in {seconds} s</span>.</p>}
        </Countdown>
      )}
    </div>
  );
}
