import type { Failure } from "fanfare-client";

const WORDS: Record<string, string> = {
  VALIDATION_ERROR: "The server did not accept this",
  UNAUTHORIZED: "The server does not know who you are",
  FORBIDDEN: "You may not do this",
  NOT_FOUND: "There is no such thing",
  RATE_LIMITED: "Too many events",
  PAYLOAD_TOO_LARGE: "This is too large",
  NO_HANDLER: "The server has no handler for this event",
  UNAVAILABLE: "The server cannot do this right now",
  INTERNAL: "The server failed",
  NO_ANSWER: "The server did not answer in time",
  OFFLINE: "The connection was lost",
};

/** The error object in words. */
export function explain({ code, message, details, retryAfter }: Failure): string {
  const parts = [WORDS[code] ?? "This failed"];
  if (message && message !== parts[0]) parts[0] += `: ${message}`;
  for (const { path, message: why } of details ?? []) parts.push(path ? `${path}: ${why}` : why);
  if (retryAfter) parts.push(`Try again in ${retryAfter} s`);
  return `${parts.map((part) => part.replace(/\.$/, "")).join(". ")}. (${code})`;
}

/** "Ada, Bob and Cem" */
export function list(names: string[]): string {
  return names.length < 2 ? (names[0] ?? "") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

export function duration(seconds: number): string {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86_400)} d`;
}

export function clock(timestamp: number | string): string {
  return new Date(timestamp).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

export function shortened(text: string, most = 40): string {
  const points = [...text];
  return points.length > most ? `${points.slice(0, most).join("")}…` : text;
}
