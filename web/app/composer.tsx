import { useEffect, useRef, useState } from "preact/hooks";
import type { Conversation } from "./conversation.js";
import type { Store } from "./store.js";

const CONTENT_MAX = 5_000;
const HIGHEST_PX = 160;

export function Composer({ store, room }: { store: Store; room: Conversation }) {
  const [text, setText] = useState(room.draft);
  const field = useRef<HTMLTextAreaElement>(null);
  const length = [...text].length;

  useEffect(() => {
    const { style } = field.current!;
    style.height = "auto";
    style.height = `${Math.min(field.current!.scrollHeight + 2, HIGHEST_PX)}px`;
    room.draft = text;
  }, [text]);
  useEffect(() => {
    if (matchMedia("(hover: hover)").matches) field.current!.focus();
  }, []);

  const write = (value: string) => {
    setText(value);
    store.client.typing(room.id, value.trim() !== "");
  };
  const send = (event: Event) => {
    event.preventDefault();
    field.current!.focus();
    const content = text.trim();
    if (!content) return;
    store.client.typing(room.id, false);
    setText("");
    store.send(room, content);
  };
  const key = (event: KeyboardEvent) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
  };
  return (
    <form id="composer" class="composer" onSubmit={send}>
      <label class="unseen" for="text">Message</label>
      <textarea id="text" name="text" ref={field} rows={1} placeholder="Message" aria-describedby="keys" value={text}
        onInput={(event) => write(event.currentTarget.value)} onKeyDown={key} onBlur={() => store.client.typing(room.id, false)} />
      <button type="submit" id="send">Send</button>
      <p id="keys" class="keys quiet">
        <kbd>Enter</kbd> sends · <kbd>Shift</kbd>+<kbd>Enter</kbd> new line · <kbd>Esc</kbd> leaves the field
        {length > CONTENT_MAX * 0.9 && <span id="length"> · {length} of {CONTENT_MAX} characters</span>}
      </p>
    </form>
  );
}
