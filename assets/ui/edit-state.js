/* The edit state of one page: graph tables, options, selection, locks; every component repaints from it. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const stores = (QS.stores = QS.stores || new Map());
  const same = (a, b) => a.size === b.length && b.every((item) => a.has(item));

  class Store extends EventTarget {
    constructor(name) {
      super();
      this.name = name;
      this.graph = null;
      this.options = {};
      this.inputs = {}; // choice -> how its inputs are quantized; silent = full precision
      this.sets = {}; // choice -> bytes of scales of its calibrated weights
      this.tables = {}; // choice -> [static setting, bytes]
      this.scheme = "token";
      this.base = null;
      this.edit = 0;
      this.rev = 0;
      this.waiting = true;
      this.wanted = null;
      this.selected = new Set();
      this.protected = new Set();
      this.expanded = new Set();
      this.folded = new Set();
      this.overlay = {};
      this.forecast = null; // what an ensemble says of one recipe, recognised by its bytes
      this.ramp = "ember";
      this.publisher = null;
      this.held = null;
      this.hover = "";
    }
    emit(kind) {
      this.dispatchEvent(new CustomEvent(kind));
    }
    on(kinds, work) {
      for (const kind of kinds.split(" ")) this.addEventListener(kind, work);
    }

    // ---- what comes from Python
    setGraph(raw) {
      const graph = typeof raw === "string" ? (raw ? JSON.parse(raw) : null) : raw ? JSON.parse(JSON.stringify(raw)) : null;
      const fresh = !this.graph || !graph || this.graph.model !== graph.model || this.graph.cards.length !== graph.cards.length;
      this.graph = graph && QS.prepare(graph);
      if (fresh) {
        this.base = this.held = this.totalsBefore = null; // other tables of the same model change no gesture
        this.waiting = true; // no edits before the recipe is here: they would be made on nothing
        this.options = {};
        this.inputs = {};
        this.sets = {};
        this.tables = {};
        this.expanded.clear();
        this.folded.clear();
        this.selected.clear();
      }
      this.emit("graph");
    }
    // False when the value answers an older state: then what Python is told next must come from the page.
    setValue(value) {
      if (!this.graph) return true;
      // Each answer counts once: a framework may hand the same one over again, after the viewer went on editing.
      if (value.rev && value.rev <= this.rev) return false;
      if (this.base) {
        this.held = { ...this.held, ...value };
        return true;
      } // mid-gesture: they wait for its end, each with what the ones after it are silent about
      const late = value.edit !== undefined && value.edit !== null && value.edit < this.edit;
      if (value.options && !late) this.options = { ...value.options };
      if (value.inputs && !late) this.inputs = { ...value.inputs };
      if (value.sets && !late) this.sets = value.sets;
      if (value.tables && !late) this.tables = value.tables;
      if (value.options) this.waiting = false;
      if (value.selected && !late) this.selected = new Set(value.selected);
      if (value.protected && !late) this.protected = new Set(value.protected);
      if (value.expanded && !late && !same(this.expanded, value.expanded)) {
        this.expanded = new Set(value.expanded);
        this.emit("layout");
      }
      if (value.overlay) {
        this.overlay = value.overlay;
        if (this.wanted === this.overlay.name) this.wanted = null;
        this.ramp = value.overlay.ramp || this.ramp;
      }
      this.rev = value.rev ?? this.rev;
      if (value.forecast !== undefined) this.forecast = value.forecast;
      if (value.address) QS.pushAddress(value.address);
      this.emit("value");
      return !late;
    }
    // A component's value is JSON text on its way: Gradio copies every value at each event, and text costs it nothing.
    takeValue(value) {
      if (value && !value.own) this.setValue(value.text ? JSON.parse(value.text) : {});
    }
    packed() {
      return { text: JSON.stringify({ ...this.fields(), rev: this.rev }), own: true };
    }
    // ---- what goes to Python: the fields of a BlockGraph value that the page may change
    fields() {
      return {
        options: { ...this.options },
        inputs: { ...this.inputs },
        selected: [...this.selected],
        protected: [...this.protected],
        expanded: [...this.expanded],
        overlay: { name: this.overlay?.name, ramp: this.ramp, wanted: this.wanted },
        edit: this.edit,
      };
    }
    publish(event) {
      if (this.publisher) this.publisher(event);
    }

    // ---- who is meant
    choicesOf(id) {
      const card = this.graph.byId.get(id);
      return card ? card.layers : this.graph.layers[id] ? [id] : [];
    }
    isProtected(id) {
      for (let at = id; at; at = this.graph.byId.get(at)?.parent ?? this.graph.layers[at]?.block) {
        if (this.protected.has(at)) return true;
        if (!this.graph.byId.has(at) && !this.graph.layers[at]) return false;
      }
      return false;
    }
    lockedChoices() {
      const locked = new Set();
      for (const id of this.protected) for (const choice of this.choicesOf(id)) locked.add(choice);
      return locked;
    }
    // Choices that an edit of these ids may touch: everything inside, less what is protected.
    editable(ids) {
      const locked = this.lockedChoices(),
        found = new Set();
      for (const id of ids) for (const choice of this.choicesOf(id)) if (!locked.has(choice)) found.add(choice);
      return [...found];
    }
    // What a card holds, worked out once per recipe however many parts of the page show it.
    holding(id) {
      if (this.heldFor !== this.options || this.heldGraph !== this.graph) {
        this.helds = new Map();
        this.heldFor = this.options;
        this.heldGraph = this.graph;
      }
      let held = this.helds.get(id);
      if (!held) this.helds.set(id, (held = QS.holding(this.graph, this.options, this.choicesOf(id))));
      return held;
    }
    holdingInputs(id) {
      if (this.inputsFor !== this.inputs || this.inputsGraph !== this.graph) {
        this.inputHelds = new Map();
        this.inputsFor = this.inputs;
        this.inputsGraph = this.graph;
      }
      let held = this.inputHelds.get(id);
      if (!held) this.inputHelds.set(id, (held = QS.holdingInputs(this.graph, this.inputs, this.choicesOf(id))));
      return held;
    }
    // The whole selection if the id is part of it, else the id alone.
    meant(id) {
      return this.selected.has(id) ? [...this.selected] : [id];
    }

    // ---- gestures: begin, live changes from the same base, one event at the end
    begin() {
      if (!this.base) {
        this.base = this.options;
        this.inputsBase = this.inputs;
        this.totalsBefore = this.totals();
      }
    }
    live(options, inputs = this.inputs) {
      this.options = options;
      this.inputs = inputs;
      this.emit("options");
    }
    totals() {
      return QS.totals(this.graph, this.options, this);
    }
    shift(choices, steps) {
      if (this.waiting) return;
      this.begin();
      this.live(QS.shiftBits(this.graph, this.base, choices, steps));
    }
    set(choices, bits) {
      if (this.waiting) return;
      this.begin();
      this.live(QS.setBits(this.graph, this.base, choices, bits));
    }
    shiftInputs(choices, steps) {
      if (this.waiting) return;
      this.begin();
      this.live(this.base, QS.shiftInputs(this.graph, this.inputsBase, choices, steps, this.scheme));
    }
    setInputs(choices, bits) {
      if (this.waiting) return;
      this.begin();
      this.live(this.base, QS.setInputs(this.graph, this.inputsBase, choices, bits, this.scheme));
    }
    rescheme(choices) {
      if (this.waiting) return;
      this.begin();
      this.live(this.base, QS.rescheme(this.graph, this.inputsBase, choices, this.scheme));
      this.commit();
    }
    commit() {
      const base = this.base,
        held = this.held,
        inputs = this.inputsBase;
      if (!base) return false;
      const differs = (now, before) => [...Object.keys(now), ...Object.keys(before)].some((name) => now[name] !== before[name]);
      const changed = differs(this.options, base) || differs(this.inputs, inputs);
      this.base = null;
      this.held = null;
      this.totalsBefore = null;
      if (changed) this.edit += 1;
      if (held) this.setValue(changed ? { ...held, options: null, inputs: null, sets: null, tables: null, selected: null } : held);
      this.emit("options");
      if (changed) this.publish("release");
      return changed;
    }
    // A gesture whose outcome Python works out: what it left on the page stays until the answer is here.
    settle() {
      if (!this.base) return;
      this.rev = Math.max(this.rev, (this.held && this.held.rev) || 0);
      this.base = null;
      this.held = null;
      this.totalsBefore = null;
      this.emit("options");
    }
    abandon() {
      if (this.base) {
        this.options = this.base;
        this.inputs = this.inputsBase;
        this.commit();
      }
    }
    setOption(choices, option) {
      if (this.waiting) return false;
      this.begin();
      const next = { ...this.options };
      for (const choice of choices)
        if (option === QS.UNTOUCHED || this.graph.sensible.get(choice).has(option)) next[choice] = option;
      this.live(next);
      return this.commit();
    }

    // ---- selection, locks, folds
    select(ids, mode = "set") {
      const next = mode === "set" ? new Set() : new Set(this.selected);
      for (const id of ids)
        if (mode === "toggle" && next.has(id)) next.delete(id);
        else next.add(id);
      if (same(this.selected, [...next])) return;
      this.selected = next;
      this.edit += 1;
      this.emit("select");
      this.publish("select");
    }
    protect(ids) {
      const on = !ids.every((id) => this.protected.has(id));
      for (const id of ids)
        if (on) this.protected.add(id);
        else this.protected.delete(id);
      this.edit += 1;
      this.emit("protect");
      this.publish("protect");
    }
    expand(id, on = !this.expanded.has(id)) {
      if (on) this.expanded.add(id);
      else this.expanded.delete(id);
      this.edit += 1;
      this.emit("layout");
      this.publish("expand");
    }
    fold(id, on = !this.folded.has(id)) {
      if (on) this.folded.add(id);
      else this.folded.delete(id);
      this.emit("layout");
    }
    setRamp(ramp) {
      this.ramp = ramp;
      this.edit += 1;
      this.emit("value");
      this.publish("ramp");
    }
    // Another overlay: its numbers come from Python, so the legend only says what is wanted until they are here.
    setOverlay(name) {
      this.wanted = name;
      this.edit += 1;
      this.publish("overlay");
    }
    setHover(id) {
      if (id !== this.hover) {
        this.hover = id;
        this.emit("hover");
      }
    }

    // ---- colours: a number for an id, 0..1, or null where there is none
    get byBits() {
      return !this.overlay.name || this.overlay.name === "bits";
    }
    valueOf(id) {
      const values = this.overlay.values || {};
      return id in values ? values[id] : null;
    }
    // Whether a layer here is at an option that no trial supports, as far as the shown scores know.
    isUnsupported(id) {
      const beyond = this.overlay.unsupported;
      if (this.byBits || !beyond) return false;
      if (this.beyondFor !== this.options || this.beyondOf !== beyond || this.beyondGraph !== this.graph) {
        this.beyonds = new Map();
        this.beyondFor = this.options;
        this.beyondOf = beyond;
        this.beyondGraph = this.graph;
      }
      if (!this.beyonds.has(id)) {
        const choices = id === null ? Object.keys(beyond) : this.choicesOf(id);
        this.beyonds.set(id, choices.some((c) => beyond[c] && beyond[c].includes(QS.optionOf(this.options, c))));
      }
      return this.beyonds.get(id);
    }
    // Why a colour is doubtful, in words; "" where it is not. Without an id: why any is.
    doubtOf(id = null) {
      if (this.byBits) return "";
      const hatched = this.overlay.hatched || [];
      return [
        (id === null ? hatched.length : hatched.includes(id)) && (this.overlay.mark || "scaled or extrapolated"),
        this.isUnsupported(id) && "extrapolated",
      ]
        .filter(Boolean)
        .join(" or ");
    }
    paintOf(id, holding) {
      if (this.byBits) return { color: QS.bitColor(this.graph, holding.mean, this.ramp), hatched: false, value: null };
      const value = this.valueOf(id),
        [low, high] = this.overlay.scale || [0, 1];
      if (value === null) return { color: null, hatched: false, value: null };
      this.hatchedSet = this.hatchedFor === this.overlay ? this.hatchedSet : new Set(this.overlay.hatched || []);
      this.hatchedFor = this.overlay;
      const level = QS.normalise(value, low, high, this.overlay.log);
      return {
        color: QS.rampColor(this.graph.ramps[this.ramp] || this.graph.ramps.ember, level),
        hatched: this.hatchedSet.has(id) || this.isUnsupported(id),
        value,
      };
    }
  }

  QS.store = (name) => {
    const key = name || "main";
    if (!stores.has(key)) stores.set(key, new Store(key));
    return stores.get(key);
  };
})();
