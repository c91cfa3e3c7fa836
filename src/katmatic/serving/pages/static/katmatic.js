// Keeps the page fresh: a digest says that something changed, then the changed fragments are asked for and put in place.
"use strict";

const REFRESH_MS = 20000; // time alone changes things too: a bell rings and somebody is missing
const SCROLLING = ".filter, .scroll, pre";
const live = document.getElementById("live");
let waiting = false;
let busy = false;

function say(state, text) {
  if (!live) return;
  live.dataset.state = state;
  if (live.textContent !== text) live.textContent = text;
}

async function refresh(part) {
  const address = part.dataset.fragment + (part.id === "main" ? location.search : "");
  const answer = await fetch(address, { headers: { Accept: "text/html" }, cache: "no-store" });
  if (answer.redirected || answer.status === 401) return location.reload();
  if (!answer.ok) throw new Error(String(answer.status));
  const text = await answer.text();
  if (part.last === text) return undefined;
  if (part.contains(document.activeElement) && document.activeElement.matches("select, input")) return undefined;
  const open = [...part.querySelectorAll("details[open][id]")].map((one) => one.id);
  const focus = part.contains(document.activeElement) ? place(document.activeElement) : null;
  const scrolled = [...part.querySelectorAll(SCROLLING)].map((one) => one.scrollLeft);
  part.last = text;
  part.innerHTML = text;
  part.querySelectorAll(SCROLLING).forEach((one, i) => { one.scrollLeft = scrolled[i] ?? 0; });
  open.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
  if (focus) part.querySelector(focus)?.focus({ preventScroll: true });
  return undefined;
}

// A selector that finds the same element after its surroundings were replaced.
function place(one) {
  if (one.id) return "#" + CSS.escape(one.id);
  if (one.getAttribute("href")) return `a[href="${CSS.escape(one.getAttribute("href"))}"]`;
  if (one.tagName === "SUMMARY" && one.parentElement.id) return `#${CSS.escape(one.parentElement.id)} > summary`;
  return null;
}

async function refreshAll() {
  waiting = true;
  if (busy || document.hidden) return;
  busy = true;
  try {
    while (waiting) {
      waiting = false;
      for (const part of document.querySelectorAll("[data-fragment]")) await refresh(part);
    }
    if (live && live.dataset.state === "lost") say("live", "live");
  } catch {
    say("lost", "reconnecting");
  } finally {
    busy = false;
  }
}

// Filters swap the content without leaving the page; without this script they are ordinary links.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-swap]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  refreshAll();
});
addEventListener("popstate", refreshAll);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refreshAll(); });
setInterval(refreshAll, REFRESH_MS);

document.querySelectorAll(".filter [aria-current]").forEach((one) => {
  const row = one.closest(".filter");
  row.scrollLeft = one.offsetLeft - row.offsetLeft - row.clientWidth / 2;
});

const source = new EventSource("/v1/stream?digest=1");
source.addEventListener("open", () => { say("live", "live"); refreshAll(); });
source.addEventListener("error", () => say("lost", "reconnecting"));
source.addEventListener("digest", refreshAll);
addEventListener("pagehide", () => source.close());
