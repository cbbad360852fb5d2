/** Typed events, nothing more. */
export class Emitter<Events extends { [E in keyof Events]: (...args: never[]) => void }> {
  private readonly handlers: { [E in keyof Events]?: Set<Events[E]> } = {};

  /** Answers how to hear no more. */
  on<E extends keyof Events>(event: E, handler: Events[E]): () => void {
    const known = (this.handlers[event] ??= new Set());
    known.add(handler);
    return () => known.delete(handler);
  }

  protected tell<E extends keyof Events>(event: E, ...args: Parameters<Events[E]>): void {
    for (const handler of this.handlers[event] ?? []) handler(...args);
  }
}
