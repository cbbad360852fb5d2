-- What the scripts that change something share: sockets that come and go, stays that begin and end.
local KEEP = '65536'

local told = {}
local connections = {}
local rooms = {}

-- Into the answer and into the list of changes; transition.rs reads it.
local function tell(kind, namespace, user, count, ends, room, socket, username)
  local packed = table.concat(
    { kind, namespace, user, count, ends, #room, #socket, room .. socket .. username }, '\0')
  told[#told + 1] = packed
  call('XADD', CHANGES, 'MAXLEN', '~', KEEP, '*', 't', packed)
end

local function add(table, namespace, change)
  table[namespace] = (table[namespace] or 0) + change
end

local function settle(key, changes)
  local all = 0
  for namespace, change in pairs(changes) do
    all = all + change
    if change ~= 0 and call('HINCRBY', key, namespace, change) == 0 then
      call('HDEL', key, namespace)
    end
  end
  if all ~= 0 and call('HINCRBY', key, '', all) == 0 then
    call('HDEL', key, '')
  end
end

-- Writes down the counts; every script that changes something ends with it.
local function finish()
  settle(CONNECTIONS, connections)
  settle(ROOMS, rooms)
end

-- Sockets that this script has met, false for those that are not there.
local met = {}

local function meet(gateway, key)
  local socket = met[key]
  if socket == nil then
    local packed = call('HGET', SOCKETS .. gateway, key)
    socket = false
    if packed then
      local user, at, username = particulars(packed)
      socket = { user = user, at = at, username = username }
    end
    met[key] = socket
  end
  return socket
end

local function down(key, field)
  local left = call('HINCRBY', key, field, '-1')
  if left == 0 then
    call('HDEL', key, field)
  end
  return left
end

-- `gone` is the end of the grace that leaves the user offline, 0 if it does not.
local function end_in_room(namespace, room, listed, user, username, gone)
  local members = MEMBERS .. namespace .. '\0' .. room
  call('ZREM', members, user)
  if not listed then
    return
  end
  local count = call('ZCARD', members)
  if count == 0 then
    call('ZREM', LISTED .. namespace, room)
    add(rooms, namespace, -1)
  end
  tell('left', namespace, user, count, gone, room, '', username)
end

-- Whether that was the user's last socket in the room.
local function out_of_room(gateway, namespace, room, listed, user)
  if listed then
    down(INSIDE .. namespace, room)
    down(ROOMS_AT .. gateway, namespace .. '\0' .. room)
  end
  return down(STAYS .. namespace .. '\0' .. user, 'r' .. room) == 0
end

local function lose(gateway, namespace, room, listed, socket, ends)
  if not out_of_room(gateway, namespace, room, listed, socket.user) then
    return
  end
  if not listed then
    return end_in_room(namespace, room, listed, socket.user, socket.username, 0)
  end
  local user = namespace .. '\0' .. socket.user
  call('HSET', STAYS .. user, 'g' .. room, ends .. '\0' .. socket.at .. '\0' .. socket.username)
  call('ZADD', GRACES, ends, '0' .. namespace .. '\0' .. room .. '\0' .. socket.user)
  local count = call('ZCARD', MEMBERS .. namespace .. '\0' .. room)
  tell('lost', namespace, socket.user, count, ends, room, '', socket.username)
end

local function disconnect(gateway, namespace, id, ends)
  local key = namespace .. '\0' .. id
  local socket = meet(gateway, key)
  if not socket then
    return
  end
  met[key] = false
  call('HDEL', SOCKETS .. gateway, key)
  add(connections, namespace, -1)
  down(USERS_AT .. gateway, socket.user)
  local places = PLACES .. gateway .. key
  local inside = call('HGETALL', places)
  if #inside > 0 then
    call('DEL', places)
  end
  for at = 1, #inside, 2 do
    lose(gateway, namespace, inside[at], inside[at + 1] == '1', socket, ends)
  end
  local user = namespace .. '\0' .. socket.user
  call('ZREM', HELD .. user, gateway .. id)
  if call('EXISTS', HELD .. user) == 1 then
    return
  end
  call('ZREM', ONLINE .. namespace, socket.user)
  down(USERS, socket.user)
  call('HSET', STAYS .. user, 'n', ends .. '\0' .. socket.at .. '\0' .. socket.username)
  call('ZADD', GRACES, ends, '1' .. user)
  tell('away', namespace, socket.user, 0, ends, '', '', socket.username)
end
