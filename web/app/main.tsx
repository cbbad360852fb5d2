// The page: a person signs in, and chats.

import { render } from "preact";
import { Chat } from "./chat.js";
import { type Identity, remember, remembered, signIn } from "./identity.js";
import { SignIn } from "./signin.js";
import { Store } from "./store.js";

const root = document.getElementById("app")!;
let store: Store | null = null;
let drawing = false;

function draw(): void {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const unread = store ? [...store.rooms.values()].reduce((sum, room) => sum + room.unread, 0) : 0;
    document.title = unread ? `(${unread}) Fanfare` : "Fanfare";
    render(store ? <Chat store={store} signOut={signOut} /> : <SignIn enter={enter} />, root);
  });
}

/** What the address asks for: `#room=lobby&name=Ada`. */
const asked = () => new URLSearchParams(location.hash.slice(1));

function enter(identity: Identity): void {
  remember(identity);
  const opened = new Store(identity, draw);
  store = opened;
  const room = asked().get("room")?.trim();
  if (room) opened.open(room);
  else opened.show([...opened.rooms.values()].at(-1) ?? opened.open("lobby"));
  void opened.client.connect();
  draw();
}

async function signOut(): Promise<void> {
  remember(null);
  const closing = store;
  store = null;
  draw();
  await closing?.client.close();
}

async function start(): Promise<void> {
  const name = asked().get("name")?.trim();
  const known = remembered();
  if (known && (!name || name === known.username)) enter(known);
  else if (name) enter(await signIn(name));
  else draw();
}

window.addEventListener("hashchange", () => {
  const room = asked().get("room")?.trim();
  if (store && room && store.active?.id !== room) store.open(room);
});
document.addEventListener("visibilitychange", () => {
  if (store?.active) store.sawAll(store.active);
});
document.addEventListener("keydown", (event) => {
  const focused = document.activeElement;
  if (event.key === "Escape" && focused instanceof HTMLElement && focused.matches("input, textarea")) focused.blur();
});
void start();
