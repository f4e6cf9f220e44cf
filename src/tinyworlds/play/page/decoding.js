/** How one frame was decoded, as the server tells it (`inside`), and the colours it is drawn in. */

const SURE = [
  [68, 1, 84],
  [59, 82, 139],
  [33, 145, 140],
  [94, 201, 98],
  [253, 231, 37],
]; // viridis

/**
 * Steps are counted from 1; after step 0 everything is hidden, after the last one nothing is.
 * Positions count the P tokens of a frame row by row.
 */
export class Decoding {
  /** `facts` are what the server says is inside a frame, `number` is the frame's. */
  constructor(facts, number) {
    this.number = number;
    [this.rows, this.columns] = facts.grid;
    this.tokens = facts.tokens;
    this.again = facts.again;
    /** Of each position the likeliest tokens when one was kept, best first, as [token, probability]. */
    this.rivals = facts.rivals.map((tokens, position) =>
      tokens.map((token, rank) => [token, facts.odds[position][rank]]),
    );
    this.total = this.tokens.length;
    this.guesses = facts.steps;
    this.steps = facts.steps.length;
    /** The step that kept each position. */
    this.keptAt = this.tokens.map((_, position) => 1 + facts.steps.findIndex(({ hidden }) => !hidden[position]));
  }

  /** Whether a position is kept once `step` is done. */
  kept(position, step) {
    return this.keptAt[position] <= step;
  }

  /** Whether it was kept in this very step. */
  fresh(position, step) {
    return this.keptAt[position] === step;
  }

  /** Positions that are kept in a step. */
  keptIn(step) {
    return [...this.tokens.keys()].filter((position) => this.fresh(position, step));
  }

  /** Mean probability of the tokens that a step keeps. */
  sureness(step) {
    const kept = this.keptIn(step);
    return kept.reduce((sum, position) => sum + this.probability(position, step), 0) / Math.max(kept.length, 1);
  }

  /** The token that stands at a position after `step`, guessed or kept; null after step 0. */
  token(position, step) {
    if (this.kept(position, step)) return this.tokens[position];
    return step ? this.guesses[step - 1].tokens[position] : null;
  }

  /** Its probability in that step; of a kept one, in the step that kept it. */
  probability(position, step) {
    const asked = Math.min(step, this.keptAt[position]);
    return asked ? this.guesses[asked - 1].confidence[position] : 0;
  }
}

/** Levels of a token, one for each latent dimension: its number in base `bins`, lowest digit first. */
export function levels(token, { bins, dimensions }) {
  return Array.from({ length: dimensions }, (_, i) => Math.floor(token / bins ** i) % bins);
}

/** A colour for a token: equal tokens have the same, tokens with near levels near ones. */
export function tokenColor(token, code) {
  const shares = levels(token, code).map((level) => (2 * level) / (code.bins - 1) - 1);
  const along = (turn) => shares.reduce((sum, share, i) => sum + share * Math.cos(turn + i * 2.4), 0) / shares.length;
  const lightness = 0.66 + 0.42 * along(0);
  return `oklab(${lightness.toFixed(3)} ${(0.4 * along(2)).toFixed(3)} ${(0.4 * along(4.1)).toFixed(3)})`;
}

/** The colour of a probability. */
export function sureColor(probability) {
  const place = Math.min(Math.max(probability, 0), 1) * (SURE.length - 1);
  const low = Math.min(Math.floor(place), SURE.length - 2);
  const mixed = SURE[low].map((part, i) => Math.round(part + (SURE[low + 1][i] - part) * (place - low)));
  return `rgb(${mixed.join(" ")})`;
}

/** Black or white, whichever is read better on the colour of a probability. */
export function inkOn(probability) {
  return probability > 0.55 ? "#111" : "#fff";
}
