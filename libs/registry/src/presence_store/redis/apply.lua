-- A batch, or a part of a snapshot: ARGV is gateway, number, what must have been applied before, what to do
-- (`plain`, `part`, `last`), now, end of a grace that begins, then the deltas, each begun by its letter.
local gateway, number, before, what, now, ends = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local function members(namespace, room)
  return call('ZCARD', MEMBERS .. namespace .. '\0' .. room)
end

local function connect(namespace, id, packed)
  local key = namespace .. '\0' .. id
  local user, at, username = particulars(packed)
  local known = meet(gateway, key)
  if known and known.user ~= user then
    disconnect(gateway, namespace, id, ends)
    known = false
  end
  met[key] = { user = user, at = at, username = username }
  call('HSET', SOCKETS .. gateway, key, packed)
  local name = namespace .. '\0' .. user
  call('ZADD', HELD .. name, at, gateway .. id)
  if known then
    return
  end
  add(connections, namespace, 1)
  call('HINCRBY', USERS_AT .. gateway, user, '1')
  if call('ZCARD', HELD .. name) > 1 then
    return
  end
  call('ZADD', ONLINE .. namespace, '0', user)
  call('HINCRBY', USERS, user, '1')
  if call('HDEL', STAYS .. name, 'n') == 1 then
    call('ZREM', GRACES, '1' .. name)
    tell('back', namespace, user, 0, 0, '', '', username)
  else
    call('HSET', STAYS .. name, 'a', at)
    tell('online', namespace, user, 0, 0, '', '', username)
  end
end

-- How it came about: `j` just now, `s` told before, `r` told by a store that has lost it.
local function join(namespace, id, room, listed, how)
  local key = namespace .. '\0' .. id
  local socket = meet(gateway, key)
  if not socket or call('HSETNX', PLACES .. gateway .. key, room, listed and '1' or '0') == 0 then
    return members(namespace, room)
  end
  local user = namespace .. '\0' .. socket.user
  local again = call('HINCRBY', STAYS .. user, 'r' .. room, '1') > 1
  if not again and listed and call('HDEL', STAYS .. user, 'g' .. room) == 1 then
    call('ZREM', GRACES, '0' .. namespace .. '\0' .. room .. '\0' .. socket.user)
    again = true
  end
  if not again then
    call('ZADD', MEMBERS .. namespace .. '\0' .. room, '0', socket.user)
  end
  local count = members(namespace, room)
  if listed then
    call('HINCRBY', INSIDE .. namespace, room, '1')
    call('HINCRBY', ROOMS_AT .. gateway, namespace .. '\0' .. room, '1')
    if again then
      if how == 'j' then
        tell('again', namespace, socket.user, count, 0, room, id, socket.username)
      end
    else
      if count == 1 then
        call('ZADD', LISTED .. namespace, '0', room)
        add(rooms, namespace, 1)
      end
      if how == 'r' then
        tell('restored', namespace, socket.user, count, 0, room, '', socket.username)
      else
        local since = call('HGET', STAYS .. user, 'a') or 0
        tell('joined', namespace, socket.user, count, since, room, '', socket.username)
      end
    end
  end
  return count
end

local function leave(namespace, id, room, listed)
  local key = namespace .. '\0' .. id
  local socket = meet(gateway, key)
  if not socket or call('HDEL', PLACES .. gateway .. key, room) == 0 then
    return
  end
  if out_of_room(gateway, namespace, room, listed, socket.user) then
    end_in_room(namespace, room, listed, socket.user, socket.username, 0)
  end
end

local applied = call('HGET', NUMBERS, gateway)
local repeated = false
if what == 'plain' then
  if applied then
    call('ZADD', GATEWAYS, 'XX', 'GT', now, gateway)
  end
  repeated = applied == number and number ~= '0'
  if not repeated and ((applied or '0') ~= before or call('ZSCORE', DEAD, gateway)) then
    return { 'need', applied or '0' }
  end
elseif applied ~= before then
  return { 'overtaken' }
end
if what ~= 'part' and not repeated then
  call('HSET', NUMBERS, gateway, number)
end
if not repeated then
  call('ZADD', GATEWAYS, 'GT', now, gateway)
end

local counts = {}
local at = 7
while ARGV[at] do
  local letter, namespace, id = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if letter == 'd' then
    if not repeated then
      disconnect(gateway, namespace, id, ends)
    end
    at = at + 3
  elseif letter == 'c' then
    if not repeated then
      connect(namespace, id, ARGV[at + 3])
    end
    at = at + 4
  else
    local room, listed = ARGV[at + 3], ARGV[at + 4] == '1'
    if letter == 'l' then
      if not repeated then
        leave(namespace, id, room, listed)
      end
    else
      local count
      if repeated then
        count = members(namespace, room)
      else
        count = join(namespace, id, room, listed, letter)
      end
      if letter == 'j' then
        counts[#counts + 1] = count
      end
    end
    at = at + 5
  end
end
finish()
return { 'applied', counts, told }
