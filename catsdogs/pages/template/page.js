// Behavior of all pages: theme, copy buttons, list of images to ignore, current section in the contents.
"use strict";
const root = document.documentElement;
const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Theme
const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
const theme = () => root.dataset.theme || (prefersDark.matches ? "dark" : "light");

function followTheme() {
  const button = find("#theme");
  const other = theme() === "dark" ? "Light" : "Dark";
  button.textContent = other;
  button.setAttribute("aria-label", `${other} theme`);
  document.dispatchEvent(new Event("themechange"));
}
find("#theme").addEventListener("click", () => {
  root.dataset.theme = theme() === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("catsdogs-theme", root.dataset.theme);
  } catch (error) { /* no storage */ }
  followTheme();
});
prefersDark.addEventListener("change", followTheme);

// Copying
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch (error) {
    // Some browsers have no clipboard for pages opened from disk.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
for (const button of all("[data-copy]")) {
  button.addEventListener("click", async () => {
    const done = await copy(document.getElementById(button.dataset.copy).textContent);
    button.textContent = done ? "Copied" : "Copy failed";
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
    button.focus();
  });
}

// Images to ignore
const ignore = find("#ignore");
const boxes = all(".shot input[type=checkbox]");
function listIgnored() {
  if (!ignore) return;
  const before = JSON.parse(ignore.dataset.ignored);
  const selected = [...new Set(boxes.filter((box) => box.checked).map((box) => box.dataset.id))];
  const list = [...new Set([...before, ...selected])];
  const more = ignore.dataset.more ? `, in addition to ${ignore.dataset.more}` : "";
  find("#ignore-count").textContent = selected.length
    ? `${selected.length} ${selected.length === 1 ? "image" : "images"} selected${more}.`
    : "Select images with a wrong label to exclude them from the next search.";
  find(".command", ignore).hidden = !selected.length;
  // Single quotes, because shells interpret brackets.
  find("#ignore-list").textContent = `'${`data.ignore=[${list.join(",")}]`.replaceAll("'", `'\\''`)}'`;
}
for (const box of boxes) {
  box.addEventListener("change", () => {
    // An image can be on the page twice.
    for (const other of boxes) if (other.dataset.id === box.dataset.id) other.checked = box.checked;
    listIgnored();
  });
}
if (ignore) {
  find("#ignore-none").addEventListener("click", () => {
    for (const box of boxes) box.checked = false;
    listIgnored();
  });
}

// Current section
const links = new Map(all(".contents a").map((link) => [link.getAttribute("href").slice(1), link]));
const sections = all("main > section");
function mark() {
  const passed = sections.filter((section) => section.getBoundingClientRect().top < window.innerHeight / 3);
  const end = window.innerHeight + window.scrollY >= root.scrollHeight - 2;
  const here = end && window.scrollY > 0 ? sections.at(-1) : (window.scrollY > 0 && passed.at(-1)) || sections[0];
  for (const [id, link] of links) {
    if (id === here.id) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}
let waiting = false;
window.addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; mark(); });
}, { passive: true });

listIgnored();
followTheme();
mark();
