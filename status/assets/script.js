// Keeps the page current: it loads the page again every five seconds and changes only what differs, so that scrolling,
// focus and selections stay. Without this script the page is complete, and current when it was loaded.
"use strict";
(function () {
  const interval = 5000, retryInterval = 2000, patience = 3000, timeout = 30000;
  const base = document.body.dataset.base;
  // Times of events are those of the exporter's clock.
  let newestEvent = new Date(document.querySelector("#process time:last-of-type")?.dateTime ?? Date.now());
  let answered = new Date(), timer = null, loading = false;

  // key returns what identifies a node among its siblings.
  const key = (node) => node.nodeType === Node.ELEMENT_NODE && node.id ? node.id : null;

  const isSame = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && key(a) === key(b);

  // update makes the node old equal to fresh.
  function update(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.id === "stale" || old.id === "announcement") return; // the script's
    if (old.id === "filter" && old.contains(document.activeElement)) return; // the reader is writing
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of [...fresh.attributes]) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    updateChildren(old, fresh);
  }

  // updateChildren makes the children of old equal to those of fresh. A child with an id is moved, not rebuilt.
  function updateChildren(old, fresh) {
    const wanted = new Set([...fresh.children].map(key).filter(Boolean));
    for (const child of [...old.children]) if (key(child) && !wanted.has(key(child))) child.remove();
    const named = new Map([...old.children].filter(key).map((child) => [key(child), child]));
    let at = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      const known = key(child) && named.get(key(child));
      if (known && known !== at) {
        old.insertBefore(known, at);
        at = known;
      }
      if (at && isSame(at, child)) {
        update(at, child);
        at = at.nextSibling;
      } else {
        old.insertBefore(child, at);
      }
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  const stale = () => document.getElementById("stale");

  function showAnswered() {
    answered = new Date();
    stale().hidden = true;
  }

  function showSilence() {
    const text = "The exporter has not answered since " + answered.toLocaleTimeString() + ". What you see is from then.";
    if (stale().hidden || stale().textContent !== text) stale().textContent = text;
    stale().hidden = false;
  }

  // announce tells screen readers what has changed since the last time.
  async function announce() {
    const place = document.getElementById("announcement");
    if (!place) return;
    const response = await fetch(base + "events?since=" + encodeURIComponent(newestEvent.toISOString()), { signal: AbortSignal.timeout(timeout) });
    if (!response.ok) return;
    const events = (await response.text()).trim().split("\n").filter(Boolean).map((line) => JSON.parse(line));
    if (events.length === 0) return;
    newestEvent = new Date(events[events.length - 1].time);
    place.textContent = events.slice(-3).map((e) => e.target + ": " + e.to.replace("_", " ")).join(", ");
  }

  async function refresh() {
    if (loading) return;
    loading = true;
    clearTimeout(timer);
    let wait = retryInterval;
    const silence = setTimeout(showSilence, patience);
    try {
      const response = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(timeout) });
      const text = await response.text();
      const page = new DOMParser().parseFromString(text, "text/html");
      const fresh = page.getElementById("content");
      if (!fresh) throw new Error("not a page of this exporter");
      const focused = document.activeElement;
      update(document.getElementById("content"), document.adoptNode(fresh));
      if (focused.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true }); // it was moved
      if (document.title !== page.title) document.title = page.title;
      clearTimeout(silence);
      showAnswered();
      wait = interval;
      await announce();
    } catch (error) {
      showSilence();
    } finally {
      clearTimeout(silence);
      loading = false;
      schedule(wait);
    }
  }

  function schedule(wait) {
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(refresh, wait);
  }

  document.addEventListener("visibilitychange", () => document.hidden ? clearTimeout(timer) : refresh());

  // The form may come and go with the number of targets.
  const applyFilter = (form) => {
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== "")).toString();
    history.replaceState(null, "", location.pathname + (query ? "?" + query : ""));
    refresh();
  };
  document.addEventListener("input", (event) => event.target.form?.id === "filter" && applyFilter(event.target.form));
  document.addEventListener("submit", (event) => {
    event.preventDefault();
    applyFilter(event.target);
  });
  schedule(interval);
})();
