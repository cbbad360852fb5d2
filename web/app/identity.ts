// Who uses this tab. The session's storage keeps it: two tabs are two people.

export interface Identity {
  username: string;
  /** Empty: a guest without a token, whose id changes with every connection. */
  token: string;
  /** The token was made for this page by a development server, so another can be had. */
  minted: boolean;
}

const KEY = "fanfare:identity";

/** Where Fanfare is: beside this page, unless whoever hosts the page elsewhere says so in it. */
export const server = document.querySelector<HTMLMetaElement>('meta[name="fanfare-server"]')?.content || location.origin;

export function remembered(): Identity | null {
  try {
    return JSON.parse(sessionStorage.getItem(KEY) ?? "null");
  } catch {
    return null;
  }
}

export function remember(identity: Identity | null): void {
  try {
    if (identity) sessionStorage.setItem(KEY, JSON.stringify(identity));
    else sessionStorage.removeItem(KEY);
  } catch { /* a private window forgets */ }
}

/** A development token of that name, or a guest where the server makes none. */
export async function signIn(username: string): Promise<Identity> {
  const token = await mint(username);
  return { username, token, minted: token !== "" };
}

export async function mint(username: string): Promise<string> {
  const headers = { "content-type": "application/json" };
  const body = JSON.stringify({ username });
  const answer = await fetch(`${server}/demo/token`, { method: "POST", headers, body }).catch(() => null);
  if (!answer?.ok) return "";
  const { token } = await answer.json();
  return token;
}

/** What a token says, for showing only: the server alone judges it. */
export function claims(token: string): { sub?: string; username?: string; role?: string } {
  try {
    const part = token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/");
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (c) => c.charCodeAt(0))));
  } catch {
    return {};
  }
}

export function inventedName(): string {
  const pick = (list: string[]) => list[crypto.getRandomValues(new Uint32Array(1))[0]! % list.length];
  return `${pick(["Amber", "Brave", "Calm", "Clear", "Copper", "Early", "Gentle", "Golden", "Lively", "Lucky", "Mellow", "Misty", "Quiet",
    "Rapid", "Silver", "Sunny", "Velvet", "Vivid"])} ${pick(["Bugle", "Cello", "Clarinet", "Cornet", "Drum", "Fiddle", "Flute", "Gong",
    "Harp", "Horn", "Lute", "Oboe", "Organ", "Piccolo", "Trumpet", "Tuba", "Viola"])}`;
}
