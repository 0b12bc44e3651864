"use strict";

document.documentElement.classList.add("js");

document.querySelectorAll(".compare").forEach((compare) => {
  const stage = compare.querySelector(".stage");
  const slider = stage.querySelector("input");
  const shots = [...stage.querySelectorAll(".shot")];
  const chosen = (side) => compare.querySelector(`.choice[data-side=${side}] :checked`).value;

  function show() {
    const [left, right] = [shots[chosen("left")], shots[chosen("right")]];
    shots.forEach((shot) => {
      shot.classList.toggle("left", shot === left);
      shot.classList.toggle("right", shot === right);
    });
    const [before, after] = [left.dataset.name, right.dataset.name];
    stage.style.setProperty("--at", `${slider.value}%`);
    stage.querySelector(".tag.left").textContent = before;
    stage.querySelector(".tag.right").textContent = after;
    slider.setAttribute("aria-valuetext", `${slider.value} % ${before}, the rest ${after}`);
  }

  slider.addEventListener("input", show);
  compare.addEventListener("change", show);
  show();
});

document.querySelector("#theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = getComputedStyle(root).getPropertyValue("--dark").trim() === "1";
  const now = root.dataset.theme || (dark ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
});
