-- What the scripts share; each is this file and its own behind it. keys.rs names the keys and says what they hold.
local GATEWAYS, NUMBERS, DEAD, USERS, CONNECTIONS, ROOMS, GRACES, CHANGES =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local SOCKETS, PLACES, HELD, STAYS, ONLINE, MEMBERS, LISTED, INSIDE =
  KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15], KEYS[16]
local USERS_AT, ROOMS_AT, LIFE, TURNS =
  KEYS[17], KEYS[18], KEYS[19], KEYS[20]

local call = redis.call

-- user, connectedAt, length of ip, length of user agent, and behind the last NUL ip, user agent, username.
local function particulars(packed)
  local user, at, ip, agent, rest = string.match(packed, '^(%Z*)%z(%d+)%z(%d+)%z(%d+)%z()')
  return user, at, string.sub(packed, rest + ip + agent)
end

-- A grace: its end, when the socket that was lost had connected, and its username.
local function grace(packed)
  local at, username = string.match(packed, '^%d+%z(%d+)%z(.*)$')
  return at, username
end

-- connectedAt and username of a user's oldest socket.
local function oldest(namespace, user)
  local first = call('ZRANGE', HELD .. namespace .. '\0' .. user, 0, 0)[1]
  if not first then
    return nil
  end
  local packed = call('HGET', SOCKETS .. string.sub(first, 1, 6), namespace .. '\0' .. string.sub(first, 7))
  local _, at, username = particulars(packed)
  return at, username
end

-- A page by name: what comes behind `after`, and one more than `limit` to tell that there is more.
local function page(key, after, limit)
  local from = after == '' and '-' or '(' .. after
  return call('ZRANGE', key, from, '+', 'BYLEX', 'LIMIT', 0, limit + 1)
end
