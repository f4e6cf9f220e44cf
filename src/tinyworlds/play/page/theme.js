/** Dark, light, or as the system has it; remembered. */

const THEMES = { system: "light dark", dark: "dark", light: "light" };
const STORAGE = "tinyworlds theme";

/** Let `button` go through the themes. */
export function rememberTheme(button) {
  const names = Object.keys(THEMES);
  let theme = localStorage.getItem(STORAGE);
  const use = (name) => {
    theme = names.includes(name) ? name : "system";
    document.documentElement.style.colorScheme = THEMES[theme];
    button.textContent = `Theme: ${theme}`;
  };
  use(theme);
  button.addEventListener("click", () => {
    use(names[(names.indexOf(theme) + 1) % names.length]);
    localStorage.setItem(STORAGE, theme);
  });
}
