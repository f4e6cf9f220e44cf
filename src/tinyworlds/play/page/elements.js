/** Finding and making elements. */

export const byId = (id) => document.getElementById(id);

/** A new element with some of its properties, and what is in it. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Say something below the screen, to screen readers as well; it goes after a while unless it is to stay. */
export function say(text, { bad = false, stays = false } = {}) {
  const notice = byId("notice");
  clearTimeout(say.timer);
  notice.textContent = text;
  notice.classList.toggle("bad", bad);
  if (!stays) say.timer = setTimeout(() => (notice.textContent = ""), 8000);
}
