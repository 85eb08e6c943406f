"use strict";
(() => {
  const study = JSON.parse(document.getElementById("study").textContent);
  const trials = new Map(study.trials.map((trial) => [trial.id, trial]));
  const place = "picture-comparison-" + study.study;
  const TOO_FAST = 200; // ms after the pictures appear: a key still held, or a second click of a double click
  const at = (id) => document.getElementById(id);
  let state = null; // { participant, started, finished, votes }
  let order = []; // [{ trial, turned }]
  let shownAt = null; // when the pictures of the present trial appeared; null: not yet, or answered

  // --- chance: everything about a participant follows from the number drawn for them

  function generator(text) {
    let s = 0x811c9dc5; // FNV-1a, 32 bits
    for (const letter of text) s = Math.imul(s ^ letter.charCodeAt(0), 0x01000193);
    s = s >>> 0 || 1;
    return (below) => {
      s ^= s << 13; // xorshift, Marsaglia 2003
      s ^= s >>> 17;
      s ^= s << 5;
      return Math.floor(((s >>> 0) / 4294967296) * below);
    };
  }

  function orderFor(participant) {
    const draw = generator(study.study + participant);
    for (let warm = 0; warm < 16; warm++) draw(2);
    const mixed = study.trials.filter((trial) => !trial.attention).map((trial) => trial.id);
    for (let last = mixed.length - 1; last > 0; last--) {
      const other = draw(last + 1);
      [mixed[last], mixed[other]] = [mixed[other], mixed[last]];
    }
    const third = Math.floor(mixed.length / 3);
    for (const check of study.trials.filter((trial) => trial.attention)) {
      mixed.splice(third + draw(third + 1), 0, check.id);
    }
    return mixed.map((id) => ({ trial: trials.get(id), turned: draw(2) === 1 }));
  }

  function newState() {
    const bytes = crypto.getRandomValues(new Uint8Array(8));
    const participant = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    return { participant, started: new Date().toISOString(), finished: null, votes: [] };
  }

  // --- memory

  function save() {
    try {
      localStorage.setItem(place, JSON.stringify(state));
      return true;
    } catch {
      return false;
    }
  }

  function restore() {
    try {
      const kept = JSON.parse(localStorage.getItem(place));
      const fits = kept && typeof kept.participant === "string" && Array.isArray(kept.votes);
      return fits && kept.votes.every((vote) => trials.has(vote.trial)) ? kept : null;
    } catch {
      return null;
    }
  }

  // --- screens

  function only(name) {
    for (const screen of ["welcome", "trial", "end"]) at(screen).hidden = screen !== name;
    const share = state.votes.length / study.trials.length;
    at("done").style.width = 100 * share + "%";
    at("bar").setAttribute("aria-valuenow", String(state.votes.length));
  }

  function sides(number) {
    const { trial, turned } = order[number];
    const [one, two] = trial.pictures;
    return turned ? { left: two, right: one } : { left: one, right: two };
  }

  async function show() {
    const number = state.votes.length;
    if (number >= order.length) return finish();
    const { trial, turned } = order[number];
    const { left, right } = sides(number);
    shownAt = null;
    only("trial");
    at("pair").className = "wait";
    at("trial").className = trial.attention ? "check" : "";
    at("ask").textContent = trial.attention
      ? "Attention check: choose the " + (turned ? "RIGHT" : "LEFT") + " picture, whatever it shows."
      : study.question;
    at("count").textContent = number + 1 + " of " + order.length;
    const images = { left: at("left").firstElementChild, right: at("right").firstElementChild };
    images.left.src = left.source;
    images.right.src = right.source;
    for (const name of ["input", "reference"]) if (at(name)) at(name).src = trial[name];
    at("left").dataset.picture = left.id;
    at("right").dataset.picture = right.id;
    await Promise.all([images.left.decode(), images.right.decode()]);
    document.activeElement.blur(); // no focus ring on the side chosen last
    at("pair").className = "";
    at("trial").dataset.number = String(number);
    shownAt = performance.now();
    ahead(number + 1);
  }

  function ahead(number) {
    if (number >= order.length) return;
    for (const picture of order[number].trial.pictures) new Image().src = picture.source;
  }

  function choose(side) {
    if (shownAt === null || performance.now() - shownAt < TOO_FAST) return;
    const { trial, turned } = order[state.votes.length];
    const { left, right } = sides(state.votes.length);
    const vote = { trial: trial.id, left: left.id, right: right.id, chosen: (side === "left" ? left : right).id };
    if (trial.attention) vote.asked = turned ? "right" : "left";
    vote.ms = Math.round(performance.now() - shownAt);
    shownAt = null;
    state.votes.push(vote);
    save();
    show();
  }

  function finish() {
    const fresh = state.finished === null;
    if (fresh) {
      state.finished = new Date().toISOString();
      save();
    }
    at("file").textContent = fileName();
    at("votes").value = at("votes").textContent = ballot();
    only("end");
    if (fresh) download();
  }

  // --- what is handed in

  const fileName = () => "votes_" + study.study.slice(0, 6) + "_" + state.participant + ".json";

  function ballot() {
    return JSON.stringify({ format: study.format, study: study.study, ...state }, null, 1);
  }

  function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([ballot()], { type: "application/json" }));
    link.download = fileName();
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function copy() {
    at("votes").select();
    at("copy").textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
  }

  // --- start

  function begin() {
    order = orderFor(state.participant);
    show();
  }

  at("start").addEventListener("click", begin);
  at("save").addEventListener("click", download);
  at("copy").addEventListener("click", copy);
  at("left").addEventListener("click", () => choose("left"));
  at("right").addEventListener("click", () => choose("right"));
  at("again").addEventListener("click", () => {
    if (!confirm("Your choices leave this page. Has the file been saved, or the text sent?")) return;
    state = newState();
    save();
    welcome();
  });
  document.addEventListener("keydown", (event) => {
    const side = { ArrowLeft: "left", ArrowRight: "right" }[event.key];
    if (!side || event.repeat || event.ctrlKey || event.altKey || event.metaKey || at("trial").hidden) return;
    event.preventDefault();
    choose(side);
  });

  function welcome() {
    const remembered = save();
    const done = state.votes.length;
    at("memory").hidden = remembered && done === 0;
    at("memory").textContent = remembered
      ? "You have done " + done + " of " + study.trials.length + " already and go on from there."
      : "This browser does not let the page remember: please finish without closing or reloading it.";
    at("start").textContent = done ? "Continue" : "Start";
    only("welcome");
  }

  state = restore() || newState();
  if (state.finished) finish();
  else welcome();
})();
