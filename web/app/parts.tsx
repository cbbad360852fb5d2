import { useEffect, useState } from "preact/hooks";

export function Logo() {
  return (
    <svg viewBox="0 0 32 32" class="logo" aria-hidden="true" focusable="false">
      <path class="horn" d="M4 14.2v3.6h5.4L20 24V8L9.4 14.2z" />
      <path class="sound" d="M23.6 12.4a5 5 0 0 1 0 7.2M26.8 9.2a9.6 9.6 0 0 1 0 13.6" />
    </svg>
  );
}

const TONES = 8;

/** The first letter of a name, in the name's colour. */
export function Avatar({ name, online }: { name: string; online?: boolean }) {
  const tone = [...name].reduce((sum, character) => (sum * 31 + character.codePointAt(0)!) >>> 0, 7) % TONES;
  return (
    <span class="avatar" data-tone={tone} aria-hidden="true">
      {[...(name || "?")][0]!.toUpperCase()}
      {online !== undefined && <span class={online ? "presence online" : "presence"} />}
    </span>
  );
}

/** Seconds until then, counting down; nothing once they are over. */
export function Countdown({ until, children }: { until: number; children: (seconds: number) => preact.ComponentChildren }) {
  const [, tick] = useState(0);
  const left = Math.ceil((until - Date.now()) / 1000);
  useEffect(() => {
    const timer = setInterval(() => tick((n) => n + 1), 500);
    return () => clearInterval(timer);
  }, [until]);
  return left > 0 ? <>{children(left)}</> : null;
}
