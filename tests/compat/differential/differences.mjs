// Where Fanfare differs from the reference and wants to: the case, the reason, and what Fanfare's transcript is.

/** case → {reason, fanfare: transcript} */
export const differences = new Map([]);
