import { useState } from "preact/hooks";
import { type Identity, claims, inventedName, signIn } from "./identity.js";
import { Logo } from "./parts.js";

/** The door: a name, which a development server makes a token for, or a token. */
export function SignIn({ enter }: { enter: (identity: Identity) => void }) {
  const [name, setName] = useState(inventedName);
  const [token, setToken] = useState("");
  const [busy, setBusy] = useState(false);

  async function submit(event: Event): Promise<void> {
    event.preventDefault();
    const shown = token.trim();
    if (shown) {
      enter({ username: claims(shown).username ?? claims(shown).sub ?? "Unknown", token: shown, minted: false });
      return;
    }
    setBusy(true);
    enter(await signIn(name.trim() || inventedName()));
  }

  return (
    <main class="door">
      <form class="card" onSubmit={submit} aria-labelledby="door-title">
        <h1 id="door-title"><Logo />Fanfare</h1>
        <p class="quiet">Chat and notifications over the Socket.IO protocol.</p>
        <label for="name">Your name</label>
        <input id="name" name="name" autocomplete="nickname" spellcheck={false} maxLength={60} value={name} disabled={token.trim() !== ""}
          onInput={(event) => setName(event.currentTarget.value)} />
        <details>
          <summary>I have a token</summary>
          <label for="token">Token <span class="quiet">(from <code>fanfare token</code>)</span></label>
          <textarea id="token" name="token" rows={4} autocomplete="off" spellcheck={false} placeholder="eyJ…" value={token}
            onInput={(event) => setToken(event.currentTarget.value)} />
        </details>
        <button type="submit" disabled={busy}>Sign in</button>
      </form>
    </main>
  );
}
