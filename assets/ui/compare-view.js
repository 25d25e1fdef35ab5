/* Two pictures in one view: slider, side by side, blink, difference; zoom and pan move both alike. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;
  const MAX_ZOOM = 32,
    MARGIN = 8;

  QS.compareView = ({ onread, onregion }) => {
    const imageA = el("img", { alt: "", draggable: "false" }),
      imageB = el("img", { alt: "", draggable: "false" }),
      heat = el("canvas");
    const region = el("div", { class: "qs-region", hidden: true });
    const pane = (name, ...content) => el("div", { class: `qs-pane ${name}` }, el("div", { class: "qs-picture" }, ...content));
    const paneA = pane("a", imageA),
      paneB = pane("b", imageB),
      paneD = pane("d", heat, region);
    const handle = el(
      "div",
      {
        class: "qs-handle",
        role: "slider",
        tabindex: 0,
        "aria-label": "Divider between A and B",
        "aria-valuemin": 0,
        "aria-valuemax": 100,
      },
      el("span", {}, QS.icon("left"), QS.icon("right")),
    );
    const stage = el(
      "div",
      { class: "qs-stage", tabindex: 0, role: "group", "aria-label": "Pictures. Wheel zooms, drag pans." },
      paneA,
      paneB,
      paneD,
      handle,
    );
    const view = { k: 1, x: 0, y: 0, split: 0.5, mode: "slider", gain: 4, hold: false, phase: "b", region: null };
    let natural = null,
      difference = null,
      pixels = { a: null, b: null },
      act = null;

    const paneBox = () =>
      view.mode === "side"
        ? { w: (stage.clientWidth - 8) / 2, h: stage.clientHeight }
        : { w: stage.clientWidth, h: stage.clientHeight };
    // The largest whole (or half) multiple that fits: every picture pixel is a square of screen pixels.
    function baseScale() {
      const { w, h } = paneBox(),
        room = Math.min((w - 2 * MARGIN) / natural.w, (h - 2 * MARGIN) / natural.h);
      return room >= 3 ? Math.floor(room) : room >= 1 ? Math.floor(room * 2) / 2 : room;
    }
    function place() {
      stage.dataset.mode = view.mode;
      stage.classList.toggle("has", Boolean(natural));
      if (!natural || !stage.clientWidth) return;
      const { w, h } = paneBox(),
        scale = baseScale() * view.k,
        pw = natural.w * scale,
        ph = natural.h * scale;
      const slackX = Math.max(0, (pw - w) / 2 + MARGIN),
        slackY = Math.max(0, (ph - h) / 2 + MARGIN);
      view.x = QS.clamp(view.x, -slackX, slackX);
      view.y = QS.clamp(view.y, -slackY, slackY);
      const left = Math.round((w - pw) / 2 + view.x),
        top = Math.round((h - ph) / 2 + view.y);
      for (const one of [paneA, paneB, paneD]) {
        const picture = one.firstElementChild;
        Object.assign(picture.style, { width: `${pw}px`, height: `${ph}px`, transform: `translate(${left}px, ${top}px)` });
        picture.classList.toggle("crisp", scale >= 1.5);
      }
      const showA = view.hold || (view.mode === "blink" && view.phase === "a");
      const both = !stage.classList.contains("only-one"),
        cut = both && view.mode === "slider" && !view.hold ? Math.round(view.split * w) : 0;
      paneB.style.clipPath = view.mode === "slider" && cut ? `inset(0 0 0 ${cut}px)` : "";
      paneB.style.visibility = showA && view.mode !== "side" ? "hidden" : "";
      stage.dataset.showing =
        view.mode === "difference" && !view.hold ? "difference" : showA ? "a" : view.mode === "blink" ? "b" : "both";
      handle.style.transform = `translateX(${Math.round(view.split * w)}px)`;
      handle.setAttribute("aria-valuenow", Math.round(view.split * 100));
      placeRegion(scale);
    }
    function placeRegion(scale) {
      region.hidden = !view.region;
      if (!view.region) return;
      const r = view.region;
      Object.assign(region.style, {
        left: `${r.x * scale}px`,
        top: `${r.y * scale}px`,
        width: `${r.w * scale}px`,
        height: `${r.h * scale}px`,
      });
    }

    // Where the pointer is: pane, and the pixel below it.
    function locate(event) {
      const box = stage.getBoundingClientRect(),
        { w, h } = paneBox();
      let x = event.clientX - box.left;
      const y = event.clientY - box.top,
        second = view.mode === "side" && x > w + 8;
      if (second) x -= w + 8;
      if (!natural) return { x, y, px: -1, py: -1, inside: false };
      const scale = baseScale() * view.k;
      const px = Math.floor((x - ((w - natural.w * scale) / 2 + view.x)) / scale),
        py = Math.floor((y - ((h - natural.h * scale) / 2 + view.y)) / scale);
      return { x, y, w, h, px, py, inside: px >= 0 && py >= 0 && px < natural.w && py < natural.h };
    }
    function zoomAt(factor, at) {
      const k = QS.clamp(view.k * factor, 1, MAX_ZOOM),
        f = k / view.k,
        { w, h } = paneBox(),
        cx = at.x - w / 2,
        cy = at.y - h / 2;
      view.x = cx - (cx - view.x) * f;
      view.y = cy - (cy - view.y) * f;
      view.k = k;
      place();
    }

    function read(event) {
      const at = locate(event);
      if (!at.inside || !pixels.a || !pixels.b) {
        onread(null);
        return;
      }
      const i = 4 * (at.py * natural.w + at.px),
        a = [...pixels.a.data.slice(i, i + 3)],
        b = [...pixels.b.data.slice(i, i + 3)];
      onread({ x: at.px, y: at.py, a, b, difference: Math.max(...a.map((v, c) => Math.abs(v - b[c]))) });
    }
    const rectangle = (a, b) => {
      const x = QS.clamp(Math.min(a.px, b.px), 0, natural.w - 1),
        y = QS.clamp(Math.min(a.py, b.py), 0, natural.h - 1);
      return {
        x,
        y,
        w: QS.clamp(Math.max(a.px, b.px), 0, natural.w - 1) - x + 1,
        h: QS.clamp(Math.max(a.py, b.py), 0, natural.h - 1) - y + 1,
      };
    };
    // A click means the eighth of the picture around it.
    const around = (at) => {
      const w = Math.max(1, Math.round(natural.w / 8)),
        h = Math.max(1, Math.round(natural.h / 8));
      return { x: QS.clamp(at.px - (w >> 1), 0, natural.w - w), y: QS.clamp(at.py - (h >> 1), 0, natural.h - h), w, h };
    };

    // Two fingers zoom and move; what one finger had begun is dropped.
    const fingers = new Map();
    let pinch = null;
    const pinchOf = () => {
      const [a, b] = [...fingers.values()];
      return { span: Math.hypot(a.x - b.x, a.y - b.y) || 1, at: { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 } };
    };
    const lift = (event) => {
      fingers.delete(event.pointerId);
      if (fingers.size < 2) pinch = null;
    };

    stage.addEventListener("pointerdown", (event) => {
      if (!natural || event.button > 1) return;
      fingers.set(event.pointerId, locate(event));
      if (fingers.size > 1) {
        act = null;
        pinch = pinchOf();
        return;
      }
      const at = locate(event),
        onHandle = handle.contains(event.target);
      const pans = event.button === 1 || event.shiftKey;
      if (view.mode === "slider" && !pans && (onHandle || view.k === 1)) act = { kind: "split" };
      else if (view.mode === "difference" && !pans && at.inside) act = { kind: "region", from: at, moved: false };
      else act = { kind: "pan", x: event.clientX, y: event.clientY, view: { ...view } };
      stage.setPointerCapture(event.pointerId);
      (onHandle ? handle : stage).focus({ preventScroll: true });
      event.preventDefault();
      if (act.kind === "split") {
        view.split = QS.clamp(at.x / at.w, 0, 1);
        place();
      }
    });
    stage.addEventListener("pointermove", (event) => {
      read(event);
      if (fingers.has(event.pointerId)) fingers.set(event.pointerId, locate(event));
      if (pinch) {
        const next = pinchOf();
        view.x += next.at.x - pinch.at.x;
        view.y += next.at.y - pinch.at.y;
        zoomAt(next.span / pinch.span, next.at);
        pinch = next;
        return;
      }
      if (!act) return;
      const at = locate(event);
      if (act.kind === "split") view.split = QS.clamp(at.x / at.w, 0, 1);
      else if (act.kind === "pan") {
        view.x = act.view.x + event.clientX - act.x;
        view.y = act.view.y + event.clientY - act.y;
      } else if (act.moved || Math.hypot(at.x - act.from.x, at.y - act.from.y) > 4) {
        act.moved = true;
        view.region = rectangle(act.from, at);
      }
      place();
    });
    stage.addEventListener("pointerup", (event) => {
      lift(event);
      const done = act;
      act = null;
      if (!done || done.kind !== "region") return;
      view.region = done.moved ? rectangle(done.from, locate(event)) : around(done.from);
      place();
      onregion(view.region);
    });
    stage.addEventListener("pointercancel", (event) => {
      lift(event);
      act = null;
    });
    stage.addEventListener("pointerleave", () => onread(null));
    stage.addEventListener(
      "wheel",
      (event) => {
        if (!natural) return;
        event.preventDefault();
        zoomAt(Math.exp(-QS.clamp(event.deltaY, -120, 120) * 0.003), locate(event));
      },
      { passive: false },
    );
    stage.addEventListener("dblclick", () => api.fit());
    handle.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[event.key];
      if (step) {
        event.preventDefault();
        event.stopPropagation();
        view.split = QS.clamp(view.split + step, 0, 1);
        place();
      }
    });

    let wanted = 0;
    let loaded = null; // the sources of what is shown whole
    function load(a, b, alt) {
      const turn = ++wanted;
      const ready = (image, src) =>
        new Promise((resolve) => {
          if (!src) {
            image.removeAttribute("src");
            resolve(false);
            return;
          }
          if (image.getAttribute("src") !== src) image.src = src;
          image.decode().then(
            () => resolve(true),
            () => resolve(image.complete && image.naturalWidth > 0),
          );
        });
      imageA.alt = alt.a;
      imageB.alt = alt.b;
      if (loaded && loaded.a === a && loaded.b === b) return Promise.resolve(); // only words around them changed
      loaded = null;
      return Promise.all([ready(imageA, a), ready(imageB, b)]).then(([hasA, hasB]) => {
        if (turn !== wanted) return;
        const one = hasA ? imageA : hasB ? imageB : null;
        const size = one && { w: one.naturalWidth, h: one.naturalHeight };
        if (size && natural && (size.w !== natural.w || size.h !== natural.h))
          Object.assign(view, { k: 1, x: 0, y: 0, region: null });
        natural = size;
        difference = null;
        pixels = { a: null, b: null };
        stage.classList.toggle("only-one", hasA !== hasB);
        if (hasA && hasB) {
          pixels = { a: QS.pixelsOf(imageA), b: QS.pixelsOf(imageB) };
          difference = QS.differenceOf(pixels.a, pixels.b);
        }
        paintHeat();
        place();
        loaded = { a, b };
        stage.dataset.loaded = String(turn);
      });
    }
    function paintHeat() {
      if (difference) QS.paintHeat(heat, difference, view.gain);
      else heat.width = heat.height = 1;
    }

    new ResizeObserver(QS.framed(place)).observe(stage);
    const api = {
      stage,
      view,
      place,
      load,
      difference: () => difference,
      zoomBy: (factor) => {
        const { w, h } = paneBox();
        zoomAt(factor, { x: w / 2, y: h / 2 });
      },
      fit: () => {
        Object.assign(view, { k: 1, x: 0, y: 0 });
        place();
      },
      mode: (mode) => {
        view.mode = mode;
        view.phase = "b";
        place();
      },
      gain: (gain) => {
        view.gain = gain;
        paintHeat();
        place();
      },
      hold: (on) => {
        if (view.hold !== on) {
          view.hold = on;
          place();
        }
      },
      blink: () => {
        view.phase = view.phase === "a" ? "b" : "a";
        place();
      },
      region: (value) => {
        view.region = value || null;
        place();
      },
    };
    return api;
  };
})();
