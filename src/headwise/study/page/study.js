// The rating page. The server holds the study; this script shows one question at a time and sends the position
// of the answer. The participant's token is the fragment of the address, after #, which is not sent to servers:
// so the address alone identifies a returning participant.

const $ = (query) => document.querySelector(query)
const link = location.pathname.split('/')[2] ?? ''
const kept = {
  get token() {
    return location.hash.slice(1) || read(link)
  },
  set token(token) {
    history.replaceState(history.state, '', `#${token}`)
    try {
      localStorage.setItem(link, token)
    } catch {
      /* the token is still in the address */
    }
  },
}

let state = { done: 0, total: 0 } // of this participant
let trial = null // the trial on the page
let since = 0 // when its images were loaded

function read(key) {
  try {
    return localStorage.getItem(key) ?? ''
  } catch {
    return ''
  }
}

async function ask(path, body) {
  const headers = { Authorization: `Bearer ${kept.token}` }
  if (body) headers['Content-Type'] = 'application/json'
  const method = body === undefined ? 'GET' : 'POST'
  let reply
  try {
    reply = await fetch(path, { method, headers, body: body && JSON.stringify(body) })
  } catch {
    throw new Error('The server cannot be reached. Nothing is lost; please try again.')
  }
  const json = await reply.json().catch(() => ({}))
  if (reply.ok) return json
  const detail = typeof json.detail === 'string' ? json.detail : 'Something went wrong. Please try again.'
  throw Object.assign(new Error(detail), { status: reply.status })
}

function show(id) {
  for (const part of document.querySelectorAll('main > *')) part.hidden = part.id !== id
  $('header').hidden = id !== 'trial'
  $('footer').hidden = id !== 'trial' && !(id === 'message' && state.total && state.done === state.total)
  window.scrollTo(0, 0)
  $(`#${id} h1`).focus()
}

function say(title, text = '') {
  trial = null
  $('#message h1').textContent = title
  $('#message p').textContent = text
  show('message')
}

// Paragraphs and lists of plain text, which is never parsed as HTML.
function setText(place, text) {
  place.replaceChildren()
  for (const block of text.trim().split(/\n\s*\n/)) {
    const lines = block.split('\n').reduce((joined, line) => {
      if (/^\s*-\s/.test(line) || joined.length === 0) joined.push(line.trim())
      else joined[joined.length - 1] += ` ${line.trim()}`
      return joined
    }, [])
    let list = null
    for (const line of lines) {
      if (!line.startsWith('- ')) {
        place.append(element('p', { textContent: line }))
        list = null
      } else {
        if (!list) place.append((list = element('ul')))
        list.append(element('li', { textContent: line.slice(2) }))
      }
    }
  }
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties)
  made.append(...children)
  return made
}

// Load an image; small ones are enlarged without smoothing.
function picture(image, id) {
  image.onload = () => image.classList.toggle('small', image.naturalWidth < 256)
  image.src = `/picture/${id}`
  return image
}

async function consent() {
  const study = await ask(`/api/study/${link}`)
  document.title = study.title
  $('#consent h1').textContent = study.title
  setText($('#consent .text'), study.consent)
  show('consent')
}

$('#consent button').onclick = attempt(async () => {
  state = await ask(`/api/study/${link}`, {})
  kept.token = state.token
  await go(state.done)
})

// Show a question, with its answer if it has one; after the last question, the thanks.
async function go(number, { push = true } = {}) {
  document.title = state.title
  if (number >= state.total) {
    if (push) history.pushState({ number }, '')
    return say('You have finished.', state.thanks)
  }
  trial = await ask(`/api/trial/${number}`)
  if (push) history.pushState({ number }, '')
  $('#count').textContent = `Question ${number + 1} of ${trial.total}`
  $('#bar').value = state.done / trial.total
  $('#question').textContent = trial.text
  draw()
  show('trial')
  startClock(trial)
}

// Time an answer from when its images are loaded; answers are accepted before that, too.
async function startClock(shown) {
  since = performance.now()
  const waiting = [...document.querySelectorAll('#trial img[src]')].filter((image) => image.offsetParent)
  const there = await Promise.allSettled(waiting.map((image) => image.decode()))
  if (trial !== shown) return
  since = performance.now()
  if (there.some((one) => one.status === 'rejected')) {
    $('#note').textContent = 'An image could not be loaded. Please reload the page.'
    for (const part of document.querySelectorAll('#options input, #trial button')) part.disabled = true
  }
}

function draw() {
  const answered = trial.given !== null
  $('#reference').hidden = !trial.reference
  if (trial.reference) picture($('#reference img'), trial.reference)
  $('#shown').hidden = trial.chooses
  if (!trial.chooses) picture($('#shown img'), trial.pictures[0])
  $('#options').className = trial.chooses ? 'pictures' : ''
  $('#options').style.setProperty('--columns', columns(trial.answers.length))
  $('#options').replaceChildren(
    ...trial.answers.map((answer, place) => {
      const input = element('input', { type: 'radio', name: 'choice', value: place, disabled: answered })
      input.checked = trial.given === place
      const name = element('span', { textContent: answer })
      const key = element('kbd', { textContent: place + 1, ariaHidden: 'true' })
      const label = element('label', {}, input, name, key)
      if (trial.chooses)
        label.prepend(picture(element('img', { alt: `Image ${answer}` }), trial.pictures[place]))
      return label
    }),
  )
  $('#note').textContent = answered ? 'You have already answered this question; your first answer counts.' : ''
  $('#trial button').disabled = !answered
}

// The number of columns: no image is alone in the last row, if possible.
const columns = (count) => (count <= 4 ? count : ([4, 3].find((width) => count % width === 0) ?? 4))

const chosen = () => $('#options :checked')

$('#options').onchange = () => {
  $('#trial button').disabled = !chosen()
}

let sending = false
$('#trial').onsubmit = async (event) => {
  event.preventDefault()
  if (!chosen() || sending) return
  sending = true
  const { number, given } = trial
  try {
    if (given === null) {
      const seconds = Math.min(86400, Math.max(0, (performance.now() - since) / 1000))
      state = { ...state, ...(await ask('/api/answer', { trial: number, choice: +chosen().value, seconds })) }
    }
    await go(number + 1)
  } catch (error) {
    if (error.status === 409) {
      // answered elsewhere, in another window
      state = await ask('/api/state').catch(() => state)
      await go(state.done).catch(() => {})
    } else if (error.status === 410 || error.status === 403) say(error.message)
    if (trial) $('#note').textContent = error.message
  } finally {
    sending = false
  }
}

document.addEventListener('keydown', (event) => {
  if (!trial || $('dialog').open || event.ctrlKey || event.metaKey || event.altKey) return
  if (/^[1-9]$/.test(event.key)) {
    const input = document.querySelectorAll('#options input:enabled')[event.key - 1]
    input?.click()
    input?.focus()
  } else if (event.key === 'Enter' && !(event.target instanceof HTMLButtonElement)) {
    event.preventDefault()
    $('#trial').requestSubmit()
  }
})

// Going back and forth only shows questions: no answer is sent or changed.
window.addEventListener(
  'popstate',
  attempt(async (event) => {
    if (!state.total) return start()
    await go(Math.min(event.state?.number ?? state.done, state.done), { push: false })
  }),
)

$('#leave').onclick = () => $('dialog').showModal()
$('dialog').onclick = attempt(async (event) => {
  const wish = event.target.closest?.('button')?.value
  if (wish) $('dialog').close()
  if (wish !== 'leave') return
  await ask('/api/withdraw', {})
  trial = null
  state = { done: 0, total: 0 }
  say('You have withdrawn.', 'Your answers were deleted. You can close this page.')
})

function attempt(what) {
  return async (event) => {
    try {
      await what(event)
    } catch (error) {
      say('That did not work.', error.message)
    }
  }
}

async function start() {
  if (!link) return say('You need a link.', 'Please use the link that you were given.')
  if (!kept.token) return consent()
  try {
    state = await ask('/api/state')
  } catch (error) {
    if (error.status !== 403 || !link) throw error
    return consent() // the token belongs to another study
  }
  kept.token = kept.token
  await go(state.done, { push: false })
  history.replaceState({ number: state.done }, '')
}

attempt(start)()
