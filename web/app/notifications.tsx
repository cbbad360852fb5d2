import { useEffect, useRef, useState } from "preact/hooks";
import type { Store } from "./store.js";
import { clock } from "./words.js";

/** The bell: how many notifications are unread, and which there were. */
export function Bell({ store }: { store: Store }) {
  const [open, setOpen] = useState(false);
  const place = useRef<HTMLDivElement>(null);
  const { notifications, unreadNotifications: unread } = store;

  useEffect(() => {
    if (!open) return undefined;
    const close = (event: Event) => {
      if (event instanceof KeyboardEvent ? event.key === "Escape" : !place.current!.contains(event.target as Node)) setOpen(false);
    };
    document.addEventListener("keydown", close);
    document.addEventListener("pointerdown", close);
    return () => {
      document.removeEventListener("keydown", close);
      document.removeEventListener("pointerdown", close);
    };
  }, [open]);

  return (
    <div class="bell" ref={place}>
      <button type="button" id="bell" class="plain" aria-expanded={open} aria-controls="notifications" onClick={() => setOpen(!open)}
        aria-label={unread ? `Notifications, ${unread} unread` : "Notifications"}>
        <svg viewBox="0 0 24 24" aria-hidden="true" focusable="false">
          <path d="M6 16.5V11a6 6 0 0 1 12 0v5.5l1.5 2h-15zM10 20.5a2 2 0 0 0 4 0" />
        </svg>
        {unread > 0 && <span class="badge" aria-hidden="true">{unread > 99 ? "99+" : unread}</span>}
      </button>
      {open && (
        <section id="notifications" class="card" aria-label="Notifications">
          {notifications.length === 0 && <p class="quiet">No notifications.</p>}
          <ul>
            {notifications.map((notification) => (
              <li key={notification.id}>
                <button type="button" class={notification.seen ? "notification" : "notification new"}
                  onClick={() => { store.openNotification(notification); if (notification.data?.roomId) setOpen(false); }}>
                  <span class="title">{!notification.seen && <span class="unseen">Unread: </span>}{notification.title}</span>
                  {notification.body && <span class="text">{notification.body}</span>}
                  <time class="quiet" dateTime={new Date(notification.createdAt).toISOString()}>{clock(notification.createdAt)}</time>
                </button>
              </li>
            ))}
          </ul>
        </section>
      )}
      <p class="unseen" role="status">{notifications[0] && !notifications[0].seen ? `Notification: ${notifications[0].title}` : ""}</p>
    </div>
  );
}
